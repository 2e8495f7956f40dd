"""A second reader of the storage stack: what blivet makes of this machine, to compare with a layout.

For `refloat doctor`, not for every night: it takes a second or more, and has been seen to miss a running array. Reads
only. Imports `core`; blivet needs Debian's python3-gi and libblockdev.
"""

from __future__ import annotations

from core.errors import ToolError
from core.layout import Layout
from core.sizes import format_size


def second_opinion(layout: Layout) -> list[str]:
    """Where blivet sees a volume, array or container of the layout otherwise; empty when it agrees.

    Raises ToolError when blivet cannot be used here.
    """
    try:
        import blivet

        storage = blivet.Blivet()
        storage.reset()
    except Exception as error:  # noqa: BLE001 - libblockdev, GLib and D-Bus raise each their own
        raise ToolError(
            f"blivet cannot read this machine: {error}", hint="is libblockdev-plugins-all there?"
        ) from error
    seen = {device.uuid: int(device.size) for device in storage.devicetree.devices if getattr(device, "uuid", None)}
    by_name = {device.name: int(device.size) for device in storage.devicetree.devices}
    found = []
    for group in layout.groups:
        for volume in group.volumes:
            found += _compare(f"{group.name}/{volume.name}", volume.size_bytes, seen.get(volume.uuid))
    for array in layout.arrays:
        found += _compare(array.name, array.size_bytes, seen.get(_dashed(array.uuid)))
    for crypt in layout.crypts:
        found += _compare(crypt.name, crypt.size_bytes, by_name.get(crypt.name))
    return found


def _compare(name: str, size_bytes: int, other: int | None) -> list[str]:
    if other == size_bytes:
        return []
    return [
        f"{name}: {format_size(size_bytes)} here, {'not there' if other is None else format_size(other)} for blivet"
    ]


def _dashed(md_uuid: str) -> str:
    plain = md_uuid.replace(":", "")
    return "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))
