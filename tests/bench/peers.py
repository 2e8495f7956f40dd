"""The peers, as Debian ships them, each writing to a fresh folder of its own. Every command syncs what it wrote."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.bench.measure import Sample, stored_bytes, timed


class Pipe:
    """`zstd -3 -T2 | age`, by itself or behind `partclone -c`: a file a day, no increments."""

    def __init__(self, folder: Path, *, partclone: bool) -> None:
        folder.mkdir(parents=True)
        self.folder, self._partclone = folder, partclone
        self._key = folder / "key"
        subprocess.run(["age-keygen", "-o", self._key], check=True, capture_output=True)
        self._recipient = subprocess.run(
            ["age-keygen", "-y", self._key], check=True, capture_output=True, text=True
        ).stdout.strip()

    def image(self, disk: Path, day: int) -> tuple[Sample, int]:
        """Write a day; gives what it took and the bytes stored."""
        out = self.folder / f"day{day}.age"
        if self._partclone:
            source = f"partclone.extfs -c -q -s {disk} -o - -L {self.folder}/log 2>{self.folder}/noise |"
            sample = timed(f"{source} zstd -q -3 -T2 -c | age -r {self._recipient} -o {out} && sync {out}")
        else:
            sample = timed(f"zstd -q -3 -T2 -c {disk} | age -r {self._recipient} -o {out} && sync {out}")
        return sample, out.stat().st_size

    def restore(self, day: int, target: Path) -> Sample:
        """Read a day back into a file."""
        return timed(f"age -d -i {self._key} {self.folder}/day{day}.age | zstd -q -d -c >{target} && sync {target}")


class Restic:
    """restic, fed on stdin."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder / "repo"
        self._env = {
            "RESTIC_PASSWORD": "bench",
            "RESTIC_REPOSITORY": str(self.folder),
            "RESTIC_CACHE_DIR": str(folder / "cache"),
        }
        timed("restic init --quiet", self._env)

    def image(self, disk: Path, day: int) -> tuple[Sample, int]:
        """Write a day; gives what it took and the bytes added."""
        before = stored_bytes(self.folder)
        command = f"restic backup --quiet --stdin --stdin-filename disk.img <{disk} && sync -f {self.folder}"
        return timed(command, self._env), stored_bytes(self.folder) - before

    def restore(self, day: int, target: Path) -> Sample:
        """Read the latest day back into a file."""
        return timed(f"restic dump --quiet latest disk.img >{target} && sync {target}", self._env)


class Borg:
    """borg, fed on stdin."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder / "repo"
        self._env = {"BORG_PASSPHRASE": "bench", "BORG_REPO": str(self.folder), "BORG_BASE_DIR": str(folder)}
        timed("borg init --encryption repokey-blake2 2>/dev/null", self._env)

    def image(self, disk: Path, day: int) -> tuple[Sample, int]:
        """Write a day; gives what it took and the bytes added."""
        before = stored_bytes(self.folder)
        command = f"borg create --compression zstd,3 ::day{day} - <{disk} && sync -f {self.folder}"
        return timed(command, self._env), stored_bytes(self.folder) - before

    def restore(self, day: int, target: Path) -> Sample:
        """Read a day back into a file."""
        return timed(f"borg extract --stdout ::day{day} >{target} && sync {target}", self._env)
