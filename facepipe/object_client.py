"""The door to object stores: uris, clients by environment, and errors that say what to do.

Clients are obstore's (the object_store crate of Apache Arrow) and take their options from
the environment variables that people know: AWS_*, GOOGLE_*, AZURE_*. No secret, and no part
of a uri that may hold one, gets into a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast

from facepipe.errors import StoreError, UsageError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

Scheme = Literal["s3", "gs", "az"]
SCHEMES = ("s3", "gs", "az")
OBJECT_SCHEMES = tuple(f"{scheme}://" for scheme in SCHEMES)
MAX_REASON_CHARS = 300

_FAMILIES = ("AWS_", "GOOGLE_", "AZURE_", "AZURITE_")
_ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
_TRUE = {"true", "1", "yes", "y", "on"}  # as obstore reads it
_SECRET = re.compile(r"SECRET|KEY|TOKEN|SAS|PASSWORD|CREDENTIAL")
_MIN_SECRET_CHARS = 6  # a shorter value ("true") is none, and would make holes in every text
_HOW = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN); profiles in "
    "~/.aws are not read: aws configure export-credentials --format env prints them",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (the file of a service account, or of gcloud auth "
    "application-default login)",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_TOKEN)",
}
_WHERE = {
    "s3": "AWS_ENDPOINT_URL and AWS_REGION",
    "gs": "GOOGLE_BASE_URL",
    "az": "AZURE_STORAGE_ENDPOINT",
}
_KIND = {"s3": "bucket", "gs": "bucket", "az": "container"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a request may take; the defaults fit a put of 64 MiB at 1 MiB/s."""

    connect_s: float = 5.0
    request_s: float = 120.0
    retries: int = 5
    retry_s: float = 240.0  # after it no further try is started


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A bucket (in Azure's words a container) and a prefix in it, without slashes around."""

    scheme: Scheme
    bucket: str
    prefix: str

    @property
    def root(self) -> str:
        """Return the uri of the bucket."""
        return f"{self.scheme}://{self.bucket}"

    def path(self, key: str) -> str:
        """Return where a key is in the bucket."""
        return "/".join(part for part in (self.prefix, key) if part)


def is_object_uri(uri: str) -> bool:
    """Tell whether a uri is of an object store."""
    return uri.startswith(OBJECT_SCHEMES)


def parse_uri(uri: str) -> Location:
    """Return the parts of a uri, which are taken as they are, without %-decoding.

    Raises UsageError for another scheme, no bucket, and "." or ".." or empty segments.
    """
    scheme, _, rest = uri.partition("://")
    if scheme not in SCHEMES:
        raise UsageError(
            f"{uri}: give a local path, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
            "az://CONTAINER/PREFIX"
        )
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.rstrip("/")
    if not bucket:
        raise UsageError(f"{uri} names no bucket: give {scheme}://BUCKET/PREFIX")
    if not plain(prefix) or not re.fullmatch(r"[A-Za-z0-9._-]+", bucket):
        raise UsageError(f"{uri} is no uri of a prefix: give {scheme}://BUCKET/PREFIX")
    return Location(scheme=cast(Scheme, scheme), bucket=bucket, prefix=prefix)


def plain(key: str) -> bool:
    """Tell whether a key is one that every store takes as it is; "" is the root."""
    return not key or not any(
        part in ("", ".", "..") or re.search(r"[\x00-\x1f\x7f]", part) for part in key.split("/")
    )


def client(location: Location, patience: Patience | None = None) -> ObjectStore:
    """Return the client of a bucket: one per process, environment and patience."""
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(_FAMILIES)))
    with explained(location.scheme, location.bucket, location.root):
        return _client(location.scheme, location.bucket, patience or Patience(), environment)


@lru_cache(maxsize=64)
def _client(
    scheme: Scheme, bucket: str, patience: Patience, environment: tuple[tuple[str, str], ...]
) -> ObjectStore:
    from obstore.store import AzureStore, GCSStore, S3Store

    # The constructors read the environment themselves, except for options of the client.
    allow_http = dict(environment).get(_ALLOW_HTTP[scheme], "").lower() in _TRUE
    options: ClientConfig = {
        "allow_http": allow_http,
        "connect_timeout": timedelta(seconds=patience.connect_s),
        "timeout": timedelta(seconds=patience.request_s),
    }
    retry: RetryConfig = {
        "max_retries": patience.retries,
        "retry_timeout": timedelta(seconds=patience.retry_s),
    }
    if scheme == "s3":
        return S3Store(bucket, client_options=options, retry_config=retry)
    if scheme == "gs":
        return GCSStore(bucket, client_options=options, retry_config=retry)
    return AzureStore(bucket, client_options=options, retry_config=retry)


@contextmanager
def explained(scheme: Scheme, bucket: str, what: str) -> Iterator[None]:
    """Turn obstore's errors into StoreError with a remedy; what is missing stays what it is.

    FileNotFoundError (of a key, not of a bucket), AlreadyExistsError and PreconditionError go
    through: they are answers.
    """
    from obstore import exceptions as answers

    try:
        yield
    except FileNotFoundError as error:
        if _names_no_bucket(str(error)):
            raise StoreError(_remedy(scheme, bucket, what, error)) from None
        raise FileNotFoundError(f"{what} is not there") from None
    except (answers.AlreadyExistsError, answers.PreconditionError):
        raise
    except (answers.BaseError, ValueError) as error:
        raise StoreError(_remedy(scheme, bucket, what, error)) from None


def _names_no_bucket(text: str) -> bool:
    return re.search("NoSuchBucket|ContainerNotFound|bucket does not exist", text) is not None


def _remedy(scheme: Scheme, bucket: str, what: str, error: Exception) -> str:
    """Return what to do about an error; the order is from the surest sign to the weakest."""
    text, name = str(error), type(error).__name__
    where, how = _WHERE[scheme], _HOW[scheme]
    if _names_no_bucket(text):
        kind = _KIND[scheme]
        return f"{what}: the {kind} {bucket} does not exist: create it, or check {where}"
    if "BadScheme" in text:
        return (
            f"{what}: the endpoint is plain http, over which anybody on the way can read along: "
            f"give one with https, or set {_ALLOW_HTTP[scheme]}=true to use it all the same"
        )
    if re.search("InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|401 Unauth", text) or (
        name == "UnauthenticatedError"
    ):
        return f"{what}: the credentials are wrong or have expired: set {how}"
    if re.search("169[.]254[.]169[.]254|metadata[.]google|Missing[A-Z]", text) or (
        "credential" in _reason(text).lower()
    ):
        return f"{what}: no credentials were found: set {how}"
    if name == "PermissionDeniedError" or "403 Forbidden" in text:
        return (
            f"{what}: access denied: these credentials need the right to list {bucket} and to "
            f"read, write and delete below the prefix; or set others: {how}"
        )
    if re.search("redirect|AuthorizationHeaderMalformed|IllegalLocation", text):
        return f"{what}: the {_KIND[scheme]} is in another region: set {where}"
    if name == "InvalidPathError":
        return f"{what}: a name there cannot be read ({_reason(text)}): rename it or leave it out"
    if name == "NotSupportedError" or re.search("501 Not Implemented|NotImplemented", text):
        return f"{what}: the server cannot do this ({_reason(text)}): check {where}"
    if re.search("HTTP error|timed out|Timeout|after [0-9]+ retries", text):
        return (
            f"{what}: the server does not answer ({_reason(text)}): check the network and "
            f"{where}, then run the same command again; what was finished is kept"
        )
    return f"{what}: the store failed ({_reason(text)}): check {where}, then run it again"


def _reason(text: str) -> str:
    """Return the first line of an error, without what may be secret in it.

    Query strings of Azure's uris hold signatures, and endpoints may hold a password.
    """
    line = re.split(r"\n|<\?xml", text, maxsplit=1)[0]
    line = re.sub(r"\?\S*", "", line)
    line = re.sub(r"//[^/\s]*@", "//", line)
    for key, value in os.environ.items():
        secret = key.startswith(_FAMILIES) and _SECRET.search(key)
        if secret and len(value) >= _MIN_SECRET_CHARS:
            line = line.replace(value, "***")
    line = "".join(c if c.isprintable() else " " for c in line).strip(" :-")
    return line[:MAX_REASON_CHARS]
