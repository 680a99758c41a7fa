"""A bucket as a store: AWS S3 or any compatible endpoint (`AWS_ENDPOINT_URL` and the other standard variables)."""

import base64
import functools
import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.exceptions import ReadTimeoutError as BodyTimeoutError

from kgt.addresses import without_password
from kgt.errors import UserError
from pipelines.storage import Absent, Condition, Conflict, Data, Matches, Missing, Stat, Unavailable, check_key, opened

_CONNECTIONS = 100  # kept: a training worker reads up to 48 streams at once, and urllib3 warns of each that is not
_ATTEMPTS = 5  # with botocore's doubling pauses: about eight seconds of refusals
_MISSING = {"404", "NoSuchKey", "NotFound"}
_CONFLICT = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_BUSY = {"SlowDown", "RequestTimeout", "429"}  # beside every 5xx
_FROM_FILE = "endpoint_url in AWS's configuration file"
_CUT_OFF = (ResponseStreamingError, IncompleteReadError, BodyTimeoutError)


@functools.cache
def _client(attempts: int = _ATTEMPTS) -> Any:
    """This process's client: botocore's must not be shared with a fork or sent to another process.

    Raises UserError for environment variables or a configuration file that describe none.
    """
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        _without_password(os.environ.get(name, ""), name)
    retries = {"max_attempts": attempts, "mode": "standard"}
    config = Config(retries=retries, connect_timeout=10, read_timeout=60, max_pool_connections=_CONNECTIONS)
    try:
        client = boto3.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        reason = _without_password(" ".join(str(error).split()), _FROM_FILE)
        raise UserError(
            f"no S3 client can be set up: {reason}; "
            "check AWS_PROFILE and AWS_ENDPOINT_URL (it begins with http:// or https://)"
        ) from error
    _without_password(client.meta.endpoint_url, _FROM_FILE)
    return client


def _without_password(address: str, what: str) -> str:
    return without_password(address, what, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")


class S3Store:
    """Objects are keys below `prefix` in `bucket`. Every put carries its SHA-256; the endpoint checks and keeps it.

    It also carries a mark of its own, by which it is found again: an endpoint may acknowledge what it does not store,
    and a request that is repeated since its answer was lost meets its own work.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self.bucket = bucket
        self.prefix = f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")

    def get(self, key: str) -> bytes:
        """See Store."""
        with self.open(key) as stream:
            return stream.read()

    def get_range(self, key: str, offset: int, size: int) -> tuple[bytes, int]:
        """`size` bytes from `offset` on, fewer where the object ends before, and how many the whole object has.

        None and 0 if it ends before `offset`. Reading takes any key, as `open` does.
        """
        try:
            with self._trouble(key):
                answer = self.call("get_object", key, Range=f"bytes={offset}-{offset + size - 1}")
                return answer["Body"].read(), int(answer["ContentRange"].rpartition("/")[2])
        except UserError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response["Error"].get("Code") == "InvalidRange":
                return b"", 0
            raise

    def open(self, key: str) -> BinaryIO:
        """See Store. A connection lost on the way is taken up again where it broke.

        Reading takes any key: those of source images are not ours.
        """
        return io.BufferedReader(_Body(self, key), 1 << 20)

    def put(self, key: str, data: Data, *, condition: Condition = None, sha256: str | None = None) -> str:
        """See Store."""
        check_key(key)
        if sha256 is None:
            sha256 = _sha256(data)
        mark = secrets.token_hex(8)
        arguments: dict[str, Any] = {
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode(),
            "Metadata": {"sha256": sha256, "mark": mark},
        }
        if isinstance(condition, Absent):
            arguments["IfNoneMatch"] = "*"
        elif isinstance(condition, Matches):
            arguments["IfMatch"] = condition.etag
        refused = False
        try:
            with self._trouble(key), opened(data) as body:
                self.call("put_object", key, Body=body, **arguments)
        except (Conflict, Missing):  # S3 calls it missing where there is nothing that could match
            refused = True
        found = self._head(key)
        if found and found["Metadata"].get("mark") == mark:
            return found["ETag"]
        if found and condition is None and found["Metadata"].get("sha256") == sha256:
            return found["ETag"]  # another writer has put the same since
        if refused or (found and condition is not None and found["ETag"] != getattr(condition, "etag", None)):
            raise Conflict(f"{self.url}/{key} was changed by another writer")
        raise Unavailable(f"store {self.url} acknowledged {key} but does not hold it")

    def head(self, key: str) -> Stat | None:
        """See Store."""
        check_key(key)
        found = self._head(key)
        if found is None:
            return None
        modified = found["LastModified"].timestamp()
        return Stat(found["ContentLength"], found["ETag"], modified, found["Metadata"].get("sha256"))

    def list(self, prefix: str) -> Iterator[str]:
        """See Store."""
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
        with self._trouble(prefix):
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self.prefix)

    def delete(self, key: str) -> None:
        """See Store."""
        check_key(key)
        with self._trouble(key):
            self.call("delete_object", key)

    def call(self, operation: str, key: str, **arguments: Any) -> dict[str, Any]:
        """One request about one object."""
        return getattr(_client(), operation)(Bucket=self.bucket, Key=self.prefix + key, **arguments)

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            with self._trouble(key):
                return self.call("head_object", key)
        except Missing:
            return None

    @contextmanager
    def _trouble(self, key: str) -> Iterator[None]:
        """What the endpoint or the client library complains of, in this project's terms."""
        try:
            yield
        except ClientError as error:
            code = error.response["Error"].get("Code", "")
            if code == "NoSuchBucket":
                raise UserError(f"store {self.url}: there is no bucket '{self.bucket}'") from error
            if code in _MISSING:
                raise Missing(f"{self.url}/{key}") from error
            if code in _CONFLICT:
                raise Conflict(f"{self.url}/{key} was changed by another writer") from error
            busy = code in _BUSY or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
            raise (Unavailable if busy else UserError)(
                f"store {self.url}: the endpoint says {code}: {error.response['Error'].get('Message')}"
            ) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise UserError(
                f"store {self.url}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            ) from error
        except (NoConnectionError, HTTPClientError, IncompleteReadError) as error:
            raise Unavailable(f"store {self.url} does not answer: {' '.join(str(error).split())}") from error
        except FlexibleChecksumError as error:
            raise Unavailable(f"store {self.url} gave other bytes of {key} than were put there") from error
        except BotoCoreError as error:
            raise UserError(f"store {self.url}: {' '.join(str(error).split())}") from error


class _Body(io.RawIOBase):
    """An object's bytes; after a lost connection the rest is asked for, of the very same object."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store, self._key, self._at, self._etag, self._left = store, key, 0, None, _ATTEMPTS
        self._connect()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._store._trouble(self._key):
            chunk = self._read(len(buffer))
        buffer[: len(chunk)] = chunk
        self._at += len(chunk)
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()

    def _read(self, size: int) -> bytes:
        while True:
            try:
                chunk = self._stream.read(size)
            except _CUT_OFF:
                self._left -= 1
                if not self._left:
                    raise
                self._connect()
            else:
                self._left = _ATTEMPTS  # a shard may be read for hours
                return chunk

    def _connect(self) -> None:
        rest = {"Range": f"bytes={self._at}-", "IfMatch": self._etag} if self._at else {}
        with self._store._trouble(self._key):
            answer = self._store.call("get_object", self._key, **rest)
        self._etag, self._stream = answer["ETag"], answer["Body"]


def _sha256(data: Data) -> str:
    if isinstance(data, bytes):  # which `file_digest` would copy
        return hashlib.sha256(data).hexdigest()
    with opened(data) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
