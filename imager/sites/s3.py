"""`s3://bucket/prefix`: a site in any object store that speaks S3. One S3Site for one run.

* **Create-only** is `If-None-Match: *`. A store that ignores it is noticed at the first put (`probe_create`); then
  each put asks first whether the name is taken, which keeps an honest run from overwriting, and no race apart.
* **Versions**: in a bucket that keeps them, an object is the *oldest* version of its name: whoever overwrites or
  deletes it later (a delete marker) changes nothing that is read here. `delete` removes the versions themselves.
* **Object Lock**: with `lock_days`, what a restore needs is put with a lock of that many days, by the store's clock;
  `imager.sites.s3lock` renews it and says what a bucket protects.

Keys that are no object names are not listed; `.refloat/…` are the driver's own. `received` is LastModified, in whole
seconds. A put is one request: packs end at 64 MiB, and only a single request can be create-only everywhere.
May import core and `imager.sites`.
"""

from __future__ import annotations

import base64
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from core.errors import CorruptError, FormatError, ObjectExistsError, ObjectMissingError, SiteError
from imager.sites.base import Buffer, ObjectInfo, check_name, check_prefix
from imager.sites.body import Body
from imager.sites.s3client import Access, Client, is_denied, is_unknown

LOCK_MODES = ("governance", "compliance")
_PROBE = ".refloat/create-only"
#: What a restore needs; the rest (leases, decisions, pins) ends or is taken back.
_NEEDED = re.compile(r"servers/[^/]+/(server\.json|(packs|maps|images|receipts|archives|moved|lineage)/.+)")
_VERSIONS_KNOWN = 65_536


class S3Site:
    """The keys below `prefix` of `bucket` as a site. `lock_days` 0: nothing is locked; `lock_mode` is one of
    LOCK_MODES. Safe to use from several threads."""

    def __init__(
        self,
        name: str,
        bucket: str,
        prefix: str = "",
        *,
        access: Access | None = None,
        lock_days: int = 0,
        lock_mode: str = "governance",
    ) -> None:
        access = access or Access()
        self.name, self.bucket = name, bucket
        self.lock_days, self.lock_mode = lock_days, lock_mode
        self.client = Client(name, bucket, access)
        self._endpoint = access.endpoint.rstrip("/").lower()
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._lock = threading.Lock()
        self._asking = threading.Lock()  # what a store can do is asked by one thread, and known to all
        self._versioned: bool | None = None
        self._create_only: bool | None = None
        self._versions: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def put(self, name: str, body: Sequence[Buffer]) -> None:
        """See Site.put."""
        check_name(name)
        with Body(body) as file:
            if not self.is_create_only() and self._is_there(name):
                raise ObjectExistsError(f"{name} exists already at {self.name}", site=self.name, name=name)
            try:
                self.put_key(name, file, IfNoneMatch="*", **self._lock_options(name))
            except SiteError as error:
                # Two puts at once: AWS tells the later one to try again, and the name may be taken by then.
                if error.fields.get("s3") == "ConditionalRequestConflict" and self._is_there(name):
                    raise ObjectExistsError(f"{name} exists at {self.name}", site=self.name, name=name) from None
                raise

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Site.get. An offset past the end is CorruptError, too."""
        check_name(name)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError("negative range")
        if length == 0:
            if offset > self.stat(name).size_bytes:
                raise self._short(name, 0, 0)
            return b""
        options = {"Key": self.key(name), **self.version(name)}
        if offset or length is not None:
            options["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        try:
            answer = self.client.ask("get_object", name, **options)
        except SiteError as error:
            if error.fields.get("status") != 416:
                raise
            if length is None and offset == self.stat(name).size_bytes:
                return b""  # the rest of an object, asked for at its very end
            raise self._short(name, 0, length or 0) from error
        return self._read(answer, name, offset if "Range" in options else None, length)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See Site.list; a page of at most a thousand is in memory at a time."""
        check_prefix(prefix)
        return self._list(prefix)

    def stat(self, name: str) -> ObjectInfo:
        """See Site.stat."""
        check_name(name)
        answer = self.head(name)
        return ObjectInfo(name, int(answer["ContentLength"]), _whole(answer["LastModified"]))

    def delete(self, name: str) -> None:
        """See Site.delete. Where versions are kept, every one of them; SiteError while one is locked."""
        check_name(name)
        if not self.is_versioned():
            self.stat(name)
            self.client.ask("delete_object", name, Key=self.key(name))
            return
        with self._lock:
            self._versions.pop(name, None)
        found = [entry for entry in self._pages(self.key(name), markers=True) if entry["Key"] == self.key(name)]
        if not any("Size" in entry for entry in found):
            raise ObjectMissingError(f"{name} is not at {self.name}", site=self.name, name=name)
        for entry in found:  # newest first: what is left after a failure is the object itself
            self.client.ask("delete_object", name, Key=self.key(name), VersionId=entry["VersionId"])

    def place(self) -> str:
        """See Site.place. One bucket under two endpoints is not recognised."""
        return f"s3:{self._endpoint or 'aws'}/{self.bucket}/{self._prefix}"

    def close(self) -> None:
        """See Site.close."""
        self.client.close()

    # --- for imager.sites.s3lock

    def key(self, name: str) -> str:
        """The key of an object."""
        return self._prefix + name

    def head(self, name: str) -> dict[str, Any]:
        """What HeadObject says of the version that counts."""
        return self.client.ask("head_object", name, Key=self.key(name), **self.version(name))

    def version(self, name: str) -> dict[str, str]:
        """`VersionId` of the oldest version, as options of a request; none in a bucket without versions."""
        if not self.is_versioned():
            return {}
        with self._lock:
            known = self._versions.get(name)
        if known is None:
            own = [entry for entry in self._pages(self.key(name)) if entry["Key"] == self.key(name)]
            if not own:
                raise ObjectMissingError(f"{name} is not at {self.name}", site=self.name, name=name)
            known = own[-1]
            with self._lock:
                self._versions[name] = known
                if len(self._versions) > _VERSIONS_KNOWN:
                    self._versions.popitem(last=False)
        return {"VersionId": known["VersionId"]}

    def put_key(self, name: str, file: Body, **options: Any) -> dict[str, Any]:
        """One PutObject with its checksum."""
        file.seek(0)
        md5 = base64.b64encode(file.md5()).decode()
        return self.client.ask(
            "put_object", name, Key=self.key(name), Body=file, ContentLength=file.size_bytes, ContentMD5=md5, **options
        )

    def until(self) -> datetime:
        """When a lock put now ends, by the store's clock, in whole seconds."""
        return (self.client.now() + timedelta(days=self.lock_days)).replace(microsecond=0)

    def is_versioned(self) -> bool:
        """Whether objects are read by version. Asked once; where that is forbidden, versions are if they can be
        listed."""
        with self._asking:
            if self._versioned is None:
                self._versioned = self._ask_versioned()
            return self._versioned

    def is_create_only(self) -> bool:
        """Whether the store refuses a create-only put of a name that is taken. Found out once, by a probe; False as
        well when these credentials may not put the probe."""
        with self._asking:
            if self._create_only is None:
                try:
                    self._create_only = self.probe_create()
                except SiteError as error:
                    if not is_denied(error):
                        raise
                    self._create_only = False
            return self._create_only

    def probe_create(self) -> bool:
        """Put one name twice, create-only: the second must be refused."""
        for _ in range(2):
            try:
                with Body([b"refloat: does this store refuse a second create-only put?\n"]) as file:
                    self.put_key(_PROBE, file, IfNoneMatch="*")
            except ObjectExistsError:
                return True
            except SiteError as error:
                if error.fields.get("s3") == "ConditionalRequestConflict":
                    return True  # another machine puts its probe: a store that ignores the condition sees no conflict
                if not is_unknown(error):
                    raise
                return False
        return False

    def _ask_versioned(self) -> bool:
        try:
            answer = self.client.ask("get_bucket_versioning", "")
        except SiteError as error:
            if is_unknown(error):
                return False
            if not is_denied(error):
                raise
        else:
            return answer.get("Status") == "Enabled"
        try:
            self.client.ask("list_object_versions", "", MaxKeys=1, Prefix=self._prefix)
        except SiteError as error:
            if self.lock_days or not (is_denied(error) or is_unknown(error)):
                raise
            return False
        return True

    def _lock_options(self, name: str) -> dict[str, Any]:
        """The lock of an object that a restore needs."""
        if not self.lock_days or _NEEDED.fullmatch(name) is None:
            return {}
        return {"ObjectLockMode": self.lock_mode.upper(), "ObjectLockRetainUntilDate": self.until()}

    def _is_there(self, name: str) -> bool:
        try:
            self.head(name)
        except ObjectMissingError:
            return False
        return True

    def _read(self, answer: dict[str, Any], name: str, offset: int | None, length: int | None) -> bytes:
        """The answer's bytes, from `offset` where a range was wanted. At most `length` are read, however long the store
        goes on."""
        with answer["Body"] as stream:
            # rclone answers a range with status 200; what it gives stands here
            if offset is not None and not answer.get("ContentRange", "").startswith(f"bytes {offset}-"):
                raise CorruptError(f"{self.name} gave {name} whole, a part was wanted", site=self.name, name=name)
            wanted = answer.get("ContentLength")
            if wanted is None or (length is not None and wanted != length):
                raise self._short(name, wanted or 0, length or 0)
            with self.client.as_site_error(name):
                data = bytes(stream.read(wanted))
        if len(data) != wanted:
            raise self._short(name, len(data), wanted)
        return data

    def _list(self, prefix: str) -> Iterator[ObjectInfo]:
        held: ObjectInfo | None = None
        last = ""
        for entry in self._pages(self._prefix + prefix):
            name = entry["Key"].removeprefix(self._prefix)
            # sorted, or a store that lies could keep us here for ever; a name comes again with its older versions
            if name < last or not name.startswith(prefix) or (name == last and not self.is_versioned()):
                raise self._strange(prefix)
            last = name
            if held is not None and held.name != name:
                yield held
            held = None
            if _is_name(name):
                held = ObjectInfo(name, int(entry["Size"]), _whole(entry["LastModified"]))
        if held is not None:
            yield held

    def _pages(self, prefix: str, *, markers: bool = False) -> Iterator[dict[str, Any]]:
        """Keys, or versions (newest first within a key; with `markers` the delete markers too), below a key prefix."""
        operation = "list_object_versions" if self.is_versioned() else "list_objects_v2"
        more: dict[str, str] = {}
        while True:
            page = self.client.ask(operation, prefix, Prefix=prefix, **more)
            yield from page.get("DeleteMarkers", []) if markers else ()
            yield from page.get("Versions", page.get("Contents", []))
            if not page.get("IsTruncated"):
                return
            old = more
            if operation == "list_objects_v2":
                more = {"ContinuationToken": page.get("NextContinuationToken", "")}
            else:
                after = page.get("NextVersionIdMarker")
                more = {"KeyMarker": page.get("NextKeyMarker", ""), **({"VersionIdMarker": after} if after else {})}
            if more == old or not next(iter(more.values())):
                raise self._strange(prefix)

    def _short(self, name: str, got: int, wanted: int) -> CorruptError:
        return CorruptError(
            f"{name} at {self.name} is too short: {got} bytes came, {wanted} were wanted",
            hint="`refloat verify` finds what else is damaged; restore from the other site",
            site=self.name,
            name=name,
        )

    def _strange(self, name: str) -> SiteError:
        return SiteError(f"{self.name}: {name}: its list is out of order", site=self.name, name=name, transient=False)


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except FormatError:
        return False
    return True


def _whole(time: datetime) -> datetime:
    """Listings know fractions of a second that HeadObject does not."""
    return time.astimezone(UTC).replace(microsecond=0)
