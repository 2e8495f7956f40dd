"""The S3 client, and what it says in the words of a site. Part of the s3 driver: made at the first verb, gone with it.

botocore's own retries are off: tried again behind our back, a create-only put would meet itself and call it another's.
May import core and `imager.sites.base`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from core.errors import ObjectExistsError, ObjectMissingError, SiteError, SiteFullError

_MISSING = {"NoSuchKey", "404", "NotFound", "NoSuchVersion"}
#: Codes of stores that are full: AWS has none, Ceph answers QuotaExceeded, MinIO XMinioStorageFull.
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "EntityTooLarge", "507"}
#: Tried again: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
_TRANSIENT = {
    "BadDigest", "ConditionalRequestConflict", "InternalError", "OperationAborted", "RequestTimeout",
    "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded",
    "XAmzContentSHA256Mismatch",
}  # fmt: skip
_DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"}
_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "401"}
#: What a store says that does not know the question.
_UNKNOWN = {"NotImplemented", "MethodNotAllowed", "405", "501", "XNotImplemented"}
_PLAIN_CODES = {
    "ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration", "InvalidRequest", "InvalidArgument"
}  # fmt: skip


@dataclass(frozen=True)
class Access:
    """How a bucket is reached. What is empty comes from the usual places: environment, ~/.aws, the instance's role.

    `credentials` is a file in the form of ~/.aws/credentials, `profile` a section of it; the three keys go before both.
    """

    endpoint: str = ""
    region: str = ""
    credentials: str = ""
    profile: str = ""
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)


class Client:
    """Calls operations by their API name; errors come out as SiteError and its kind. Safe from several threads."""

    def __init__(self, site: str, bucket: str, access: Access) -> None:
        self.site, self.bucket, self._access = site, bucket, access
        self._lock = threading.Lock()
        self._made: Any = None
        self._clock: tuple[datetime, float] | None = None

    def ask(self, operation: str, name: str, **more: Any) -> dict[str, Any]:
        """The answer of `operation` (`put_object`, …) on the bucket; `name` is for messages only."""
        with self.as_site_error(name):
            answer: dict[str, Any] = getattr(self._client(), operation)(Bucket=self.bucket, **more)
        self._look_at_clock(answer)
        return answer

    def now(self) -> datetime:
        """The time by the store's clock, as its last answer told it (UTC); ours before there was one."""
        if self._clock is None:
            return datetime.now(UTC)
        told, when = self._clock
        return told + timedelta(seconds=time.monotonic() - when)

    def close(self) -> None:
        """Let the connections go."""
        with self._lock:
            if self._made is not None:
                self._made.close()
                self._made = None

    def _look_at_clock(self, answer: dict[str, Any]) -> None:
        said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        with contextlib.suppress(ValueError, TypeError):
            told = parsedate_to_datetime(said)
            self._clock = (told if told.tzinfo else told.replace(tzinfo=UTC)).astimezone(UTC), time.monotonic()

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                with self.as_site_error(""):
                    self._made = _make(self._access)
            return self._made

    @contextlib.contextmanager
    def as_site_error(self, name: str) -> Iterator[None]:
        """Turn what botocore and urllib3 raise in the block into a site's errors."""
        import botocore.exceptions
        import urllib3.exceptions

        try:
            yield
        except botocore.exceptions.ClientError as error:
            raise self._refused(error.response, name) from error
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError) as error:
            hint = "name a file: site.credentials, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            raise self._error("no credentials are found", name, hint, transient=False) from error
        except botocore.exceptions.SSLError as error:
            hint = "is `site.endpoint` right, and its certificate by an authority that this machine knows?"
            raise self._error(f"is not trusted: {error}", name, hint, transient=False) from error
        except (
            botocore.exceptions.ConnectionError,
            botocore.exceptions.HTTPClientError,
            botocore.exceptions.IncompleteReadError,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            raise self._error(f"does not answer: {error}", name, None, transient=True) from error
        except botocore.exceptions.BotoCoreError as error:  # a profile or region that is none, an answer that is no XML
            raise self._error(str(error), name, None, transient=False) from error

    def _refused(self, response: dict[str, Any], name: str) -> SiteError:
        """The error that an answer stands for."""
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        said = str(response.get("Error", {}).get("Message", "")) or f"status {status}"
        fields: dict[str, Any] = {"site": self.site, "name": name, "s3": code, "status": status}
        if code in _MISSING:
            return ObjectMissingError(f"{name} is not at {self.site}", **fields)
        if code in ("PreconditionFailed", "412"):
            return ObjectExistsError(f"{name} exists already at {self.site}", **fields)
        if code in _FULL:
            hint = "make room (prune, a larger quota) and run it again: what is there already counts"
            return SiteFullError(f"{self.site} has no room for {name}: {said}", hint=hint, **fields)
        hints: list[tuple[set[str], str]] = [
            ({"NoSuchBucket"}, f"make the bucket {self.bucket}, or correct site.url"),
            (_KEYS, "are these the keys of this store? Is this machine's clock right?"),
            (_DENIED, "docs/sites.md lists what the bucket's policy must allow"),
            ({"PermanentRedirect", "IllegalLocationConstraintException", "301"}, "set site.region"),
        ]
        transient = code in _TRANSIENT or (status >= 500 and code not in _UNKNOWN) or status == 429
        hint_said = next((hint for codes, hint in hints if code in codes), None)
        return self._error(f"{said} ({code})", name, hint_said, transient=transient, s3=code, status=status)

    def _error(self, what: str, name: str, hint: str | None, **more: Any) -> SiteError:
        return SiteError(f"{self.site}: {name or self.bucket}: {what}", hint=hint, site=self.site, name=name, **more)


def is_denied(error: SiteError) -> bool:
    """Whether the store knows the request and forbids it."""
    return error.fields.get("s3") in _DENIED


def is_unknown(error: SiteError) -> bool:
    """Whether the store does not know the request, or has nothing to answer."""
    return error.fields.get("s3") in _UNKNOWN | _PLAIN_CODES


def refuses(ask: Callable[[], object]) -> bool:
    """Whether the store forbids what `ask` does; False when it did it."""
    try:
        ask()
    except SiteError as error:
        if not is_denied(error) and not isinstance(error, ObjectExistsError):
            raise
        return True
    return False


def _make(access: Access) -> Any:
    # Here and not above: a server without a bucket need not load it.
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session(profile=access.profile or None)
    if access.credentials:
        session.set_config_variable("credentials_file", access.credentials)
    options = Config(
        connect_timeout=10,
        read_timeout=120,
        retries={"total_max_attempts": 1},
        max_pool_connections=32,
        # Older stores do not know checksums in trailers; Content-MD5, and the signed SHA-256, every one does.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Not every store has a name in the DNS for every bucket.
        s3={"payload_signing_enabled": True, "addressing_style": "path" if access.endpoint else "auto"},
        user_agent="refloat",
    )
    region = access.region or session.get_config_variable("region") or "us-east-1"
    return session.create_client(
        "s3",
        region_name=region,
        endpoint_url=access.endpoint or None,
        aws_access_key_id=access.access_key_id or None,
        aws_secret_access_key=access.secret_access_key or None,
        aws_session_token=access.session_token or None,
        config=options,
    )
