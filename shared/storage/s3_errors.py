"""What an S3 server, or the lack of one, says, put into our own classes of error. Never repeats a key."""

import contextlib
from collections.abc import Iterator
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from shared.contracts.errors import DoctorGenError, Permanent, ResourceExhausted, Transient

NO_ROOM = {"QuotaExceeded", "InsufficientStorage", "InsufficientCapacity", "XMinioStorageFull"}
# A wrong clock is this machine's trouble and no job's: another machine can do the step, and this one once it is set.
PASSING = {
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "ServerBusy",
    "ServiceUnavailable",
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "TooManyRequests",
    "XMinioServerNotInitialized",
}
PASSING_STATUSES = {408, 429}
SERVER_FAULT = 500
NO_ROOM_STATUS = 507

KEYS = "Check storage.access_key and storage.secret_key."
MENDS = {
    "AccessDenied": f"{KEYS} If they are right, the bucket's policy must allow reading, writing, listing and deleting.",
    "AuthorizationHeaderMalformed": "Name the bucket's region in storage.url (…&region=…).",
    "InvalidAccessKeyId": KEYS,
    "NoSuchBucket": "Create the bucket, or set storage.create_bucket.",
    "PermanentRedirect": "Name the bucket's own endpoint and region in storage.url.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "SignatureDoesNotMatch": KEYS,
}
TLS_MENDS = {
    "CERTIFICATE_VERIFY_FAILED": "Let SSL_CERT_FILE name the authority that signed the server's certificate.",
    "WRONG_VERSION_NUMBER": "The server does not speak TLS: add secure=false to storage.url, or use its TLS port.",
}


@contextlib.contextmanager
def our_errors(where: str, doing: str) -> Iterator[None]:
    """Turn whatever the client raises inside into Transient, ResourceExhausted or Permanent.

    `where` names the server and bucket, `doing` the attempt ("read subjects/…"); both go into the message.
    """
    try:
        yield
    except S3Error as error:
        raise refusal(error, where, doing) from error
    except ServerError as error:
        kind = Transient if error.status_code >= SERVER_FAULT else Permanent
        raise kind(f"{where} could not {doing}: HTTP status {error.status_code}") from error
    except (InvalidResponseError, ParseError) as error:
        raise Transient(f"{where} could not {doing}: what answered does not speak S3") from error
    except (HTTPError, OSError) as error:
        raise _unreachable(error, where, doing) from error


def refusal(error: S3Error, where: str, doing: str) -> DoctorGenError:
    """Our error for a server's answer."""
    code, status = error.code or "no code", error.response.status
    said = f"{where} could not {doing}: {code}" + (f", {error.message}" if error.message else "")
    if code in NO_ROOM or status == NO_ROOM_STATUS:
        return ResourceExhausted(f"{said}. Free some room in the object store, or raise the quota.")
    if code in PASSING or status in PASSING_STATUSES or status >= SERVER_FAULT:
        return Transient(f"{said}. {MENDS[code]}" if code in MENDS else said)
    return Permanent(f"{said}. {MENDS.get(code, 'The server will refuse this again.')}")


def _unreachable(error: HTTPError | OSError, where: str, doing: str) -> DoctorGenError:
    cause = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
    said = f"{where} could not {doing}: {cause}"
    for sign, mend in TLS_MENDS.items():
        if isinstance(cause, SSLError) and sign in str(cause):
            return Permanent(f"{said}. {mend}")
    return Transient(said)
