"""The one S3 request that the `minio` client cannot make: a PUT that never writes over what stands.

It is signed by the client's own signer and sent over the pool that the client uses. As the client does over TLS, large
bodies are left out of the signature: artifacts are checked against the digest in their name whenever they are read,
and hashing them a second time would cost a tenth of the whole PUT.
"""

from urllib.parse import urlunsplit

from minio import time
from minio.credentials.credentials import Credentials
from minio.error import S3Error
from minio.helpers import BaseURL, DictType, sha256_hash
from minio.signer import sign_v4_s3
from urllib3 import PoolManager

SIGNED_BODY_LIMIT_BYTES = 64 * 1024
UNSIGNED = "UNSIGNED-PAYLOAD"
OK = 200


class PutSender:
    """Sends single PUT requests to one bucket. Thread-safe."""

    def __init__(self, pool: PoolManager, url: BaseURL, bucket: str, region: str, credentials: Credentials) -> None:
        self._pool = pool
        self._url = url
        self._bucket = bucket
        self._region = region
        self._credentials = credentials

    def send(self, key: str, data: bytes, media_type: str, *, if_absent: bool) -> None:
        """Write a blob.

        Raises:
            minio.error.S3Error: the server refused; `PreconditionFailed` where `if_absent` and something stands.
            urllib3.exceptions.HTTPError: the server does not answer.
            xml.etree.ElementTree.ParseError: what answered does not speak S3.
        """
        url = self._url.build(method="PUT", region=self._region, bucket_name=self._bucket, object_name=key)
        digest = sha256_hash(data) if len(data) <= SIGNED_BODY_LIMIT_BYTES else UNSIGNED
        date = time.utcnow()
        headers: DictType = {
            "Host": url.netloc,
            "Content-Type": media_type,
            "x-amz-content-sha256": digest,
            "x-amz-date": time.to_amz_date(date),
        }
        if if_absent:
            headers["If-None-Match"] = "*"
        signed = sign_v4_s3(
            method="PUT",
            url=url,
            region=self._region,
            headers=headers,
            credentials=self._credentials,
            content_sha256=digest,
            date=date,
        )
        plain = {name: value for name, value in signed.items() if isinstance(value, str)}
        response = self._pool.urlopen("PUT", urlunsplit(url), body=data, headers=plain)
        if response.status != OK:
            raise S3Error.fromxml(response)
