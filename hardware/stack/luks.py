"""LUKS containers that are open: geometry and tokens from the header (`cryptsetup luksDump`), never a key."""

from __future__ import annotations

import json
import re
from pathlib import Path

from core.errors import SourceError
from core.layout import Crypt
from core.run import Runner
from hardware.facts import Numbers, dm_uuid, kernel_path
from hardware.stack.nodes import Node, facts_at


def opened_on(carrier: Node) -> Numbers | None:
    """The mapping that an open container has, or None while it is locked."""
    found = [rdev for rdev in carrier.holders() if dm_uuid(rdev).startswith("CRYPT-LUKS")]
    return found[0] if found else None


def read_crypt(carrier: Node, mapping: Numbers, runner: Runner) -> Crypt:
    """Describe an open container."""
    assert carrier.rdev is not None  # noqa: S101 - it has a holder
    path, kind = kernel_path(carrier.rdev), dm_uuid(mapping)
    geometry = _version1 if kind.startswith("CRYPT-LUKS1-") else _version2
    header_bytes, sector_bytes, key_slots, tokens = geometry(path, runner)
    return Crypt(
        name=Path(kernel_path(mapping)).name,
        node=carrier.name,
        uuid=carrier.content.uuid,
        version=1 if geometry is _version1 else 2,
        header_bytes=header_bytes,
        size_bytes=facts_at(mapping).size_bytes,
        sector_bytes=sector_bytes,
        key_slots=key_slots,
        tokens=tokens,
    )


def _version2(path: str, runner: Runner) -> tuple[int, int, int, tuple[str, ...]]:
    argv = ["cryptsetup", "luksDump", "--dump-json-metadata", path]
    dump = json.loads(runner.run(argv, purpose=f"read the LUKS header of {path}").text)
    segments = list(dump["segments"].values())
    if len(segments) != 1:  # two while it is re-encrypted
        raise SourceError(f"{path} is being re-encrypted", hint="wait until `cryptsetup reencrypt` is done")
    tokens = tuple(sorted({str(token["type"]) for token in dump["tokens"].values()}))
    return int(segments[0]["offset"]), int(segments[0].get("sector_size", 512)), len(dump["keyslots"]), tokens


def _version1(path: str, runner: Runner) -> tuple[int, int, int, tuple[str, ...]]:
    text = runner.run(["cryptsetup", "luksDump", path], purpose=f"read the LUKS header of {path}").text
    offset = re.search(r"^Payload offset:\s+(\d+)$", text, re.MULTILINE)
    if offset is None:
        raise SourceError(f"the LUKS header of {path} cannot be read", hint="is it damaged?")
    return int(offset[1]) * 512, 512, len(re.findall(r"^Key Slot \d+: ENABLED$", text, re.MULTILINE)), ()
