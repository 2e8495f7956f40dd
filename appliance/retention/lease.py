"""A restore says that it reads an image, so that nothing takes it away meanwhile. May import `imager`, `core`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from appliance.retention.records import LEASE_MAX, Records
from core.errors import RefloatError
from imager.repository.store import Repository


@contextlib.contextmanager
def leased(sites: Sequence[Repository], image: str) -> Iterator[None]:
    """Hold a lease at each site that takes one; what cannot be written to, a restore reads all the same: then the
    delay of the trash has to do. Taken back at the end where that is allowed, else it ends by itself."""
    held: list[tuple[Records, str]] = []
    until = datetime.now(UTC) + LEASE_MAX
    for repository in sites:
        records = Records(repository)
        with contextlib.suppress(RefloatError):
            held.append((records, records.lease(image, until)))
    try:
        yield
    finally:
        for records, name in held:
            with contextlib.suppress(RefloatError):
                records.release(name)
