"""An artifact store on an S3 server, through the `minio` client."""

import logging
import os
from collections.abc import Iterator
from datetime import datetime

import certifi
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.datatypes import Object
from minio.error import S3Error
from minio.helpers import BaseURL
from pydantic import SecretStr
from urllib3 import PoolManager, Retry, Timeout

from shared.contracts.errors import InvalidInput, Transient
from shared.storage.keys import checked_key, checked_prefix
from shared.storage.s3_errors import our_errors
from shared.storage.s3_put import PutSender

CONNECTIONS = 32
BACKOFF_S = 0.1
SERVER_FAULTS = (500, 502, 503, 504)
CONFLICT_ATTEMPTS = 5
NO_CONDITIONAL_PUT = {"NotImplemented", "MethodNotAllowed", "InvalidArgument", "InvalidRequest", "BadRequest"}
STANDS = "PreconditionFailed"
CONFLICT = "ConditionalRequestConflict"
MADE_ALREADY = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}

log = logging.getLogger(__name__)


class S3Store:
    """Blobs as objects of one bucket. No request is made before the first call.

    Every request is bounded: `connect_timeout_s` to reach the server, `read_timeout_s` without a byte moving, and
    `retries` new attempts after a refused or broken connection or a 5xx (one only after a read that broke or timed
    out). Writes are conditional (If-None-Match); with a server that refuses conditions, the store looks before it
    writes, and two writers at the same instant may then both be told True.

    Args:
        endpoint: host:port.
        region: None where the server has none, or its host name says it.

    Raises:
        InvalidInput: the endpoint is no host.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        access_key: SecretStr,
        secret_key: SecretStr,
        secure: bool = True,
        region: str | None = None,
        connect_timeout_s: float = 3.0,
        read_timeout_s: float = 30.0,
        retries: int = 2,
    ) -> None:
        scheme = "https" if secure else "http"
        try:
            url = BaseURL(f"{scheme}://{endpoint}", region)
        except ValueError as error:
            raise InvalidInput("storage.url", f"endpoint {endpoint!r}: {error}", "Give host:port.") from error
        region = url.region or "us-east-1"
        keys = Credentials(access_key.get_secret_value(), secret_key.get_secret_value())
        pool = _pool(connect_timeout_s, read_timeout_s, retries)
        self._bucket = bucket
        self._where = f"the object store {scheme}://{endpoint}/{bucket}"
        self._client = Minio(endpoint, keys.access_key, keys.secret_key, secure=secure, region=region, http_client=pool)
        self._sender = PutSender(pool, url, bucket, region, keys)
        self._conditional = True

    def ensure_bucket(self) -> None:
        """Make the bucket where it is missing. Raises Transient, or Permanent where the server refuses."""
        with our_errors(self._where, "make the bucket"):
            if self._client.bucket_exists(self._bucket):
                return
            try:
                self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code not in MADE_ALREADY or not self._client.bucket_exists(self._bucket):
                    raise

    def put(self, key: str, data: bytes, media_type: str) -> bool:
        checked_key(key)
        with our_errors(self._where, f"write {key}"):
            if self._conditional:
                written = self._put_if_absent(key, data, media_type)
                if written is not None:
                    return written
            if self._stands(key):
                return False
            self._sender.send(key, data, media_type, if_absent=False)
            if self._conditional:
                self._conditional = False
                log.warning("%s refuses conditional writes; from now on it is asked before each write", self._where)
            return True

    def replace(self, key: str, data: bytes, media_type: str) -> None:
        with our_errors(self._where, f"replace {checked_key(key)}"):
            self._sender.send(key, data, media_type, if_absent=False)

    def get(self, key: str) -> bytes | None:
        with our_errors(self._where, f"read {checked_key(key)}"):
            try:
                response = self._client.get_object(self._bucket, key)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise
            try:
                data = response.read()
            finally:
                response.close()
            announced = response.headers.get("Content-Length")
            if announced != str(len(data)):
                raise Transient(f"{self._where} announced {announced} bytes of {key} and sent {len(data)}")
            return data

    def delete(self, key: str) -> None:
        with our_errors(self._where, f"delete {checked_key(key)}"):
            self._client.remove_object(self._bucket, key)

    def keys(self, prefix: str) -> Iterator[str]:
        listed = self._objects(checked_prefix(prefix))
        return (found.object_name for found in listed if found.object_name is not None)

    def committed(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        listed = self._objects(checked_prefix(prefix))
        return (
            (found.object_name, found.last_modified) for found in listed if found.object_name and found.last_modified
        )

    def _objects(self, prefix: str) -> Iterator[Object]:
        with our_errors(self._where, f"list {prefix}"):
            yield from self._client.list_objects(self._bucket, prefix, recursive=True)

    def _put_if_absent(self, key: str, data: bytes, media_type: str) -> bool | None:
        """Whether it was written; None where the server knows no conditions."""
        for _ in range(CONFLICT_ATTEMPTS):
            try:
                self._sender.send(key, data, media_type, if_absent=True)
            except S3Error as error:
                if error.code == STANDS:
                    return False
                if error.code in NO_CONDITIONAL_PUT:
                    return None
                if error.code != CONFLICT:
                    raise
            else:
                return True
        raise Transient(f"{self._where} could not write {key}: others keep writing it at the same time")

    def _stands(self, key: str) -> bool:
        try:
            self._client.stat_object(self._bucket, key)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return False
            raise
        return True


def _pool(connect_timeout_s: float, read_timeout_s: float, retries: int) -> PoolManager:
    return PoolManager(
        maxsize=CONNECTIONS,
        timeout=Timeout(connect=connect_timeout_s, read=read_timeout_s),
        retries=Retry(
            total=retries,
            read=min(1, retries),
            redirect=False,
            backoff_factor=BACKOFF_S,
            status_forcelist=SERVER_FAULTS,
            allowed_methods=None,
            raise_on_status=False,
        ),
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
    )
