"""Gives every exception a place in our vocabulary, and an account that fits into a message."""

import errno
import re
import traceback

from shared.contracts.errors import (
    DevicePoisoned,
    DoctorGenError,
    InvalidInput,
    Permanent,
    ResourceExhausted,
    Transient,
)
from shared.contracts.step import ErrorAccount
from shared.storage.digest import sha256

VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|[A-Za-z]+-[0-9a-f]{6,}|\S*[0-9]\S*|\S*/\S*")
"""What differs between two errors of one cause: quoted words, ids, numbers, paths."""

OUT_OF_MEMORY = (
    "insufficient memory",
    "out of memory",
    "failed to allocate memory",
    "can't allocate memory",
    "status_alloc_failed",
)
"""How OpenCV, CUDA, onnxruntime, torch on a CPU, and cuBLAS and cuDNN say it."""

POISONED = (
    "uncorrectable ecc error",
    "illegal memory access",
    "launch timed out",
    "device-side assert",
    "hardware stack error",
    "illegal instruction",
    "misaligned address",
    "not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
)
"""CUDA errors after which every later call in the process fails, too (CUDA runtime API, "sticky" errors)."""

OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}


def classify(error: BaseException) -> type[DoctorGenError]:
    """The class of ours that an exception belongs to. What nobody foresaw is Permanent: it needs a person."""
    if isinstance(error, DoctorGenError):
        return next(kind for kind in type(error).__mro__ if kind.__module__ == DoctorGenError.__module__)
    text = str(error).lower()
    if any(sign in text for sign in POISONED):
        return DevicePoisoned
    if isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY):
        return ResourceExhausted
    if isinstance(error, OSError) and error.errno in OUT_OF_SPACE:
        return ResourceExhausted
    if isinstance(error, ConnectionError | TimeoutError):
        return Transient
    return Permanent


def account_of(error: BaseException) -> ErrorAccount:
    """The error as data: message cut at 1000 characters, the traceback's last 2000."""
    kind = classify(error)
    field, message, hint = None, str(error) or type(error).__name__, kind.hint
    if isinstance(error, InvalidInput):
        field, message, hint = error.field, error.found, error.mend
    return ErrorAccount(
        kind=kind.__name__,
        type=type(error).__name__,
        message=message[:1000],
        field=field,
        hint=hint,
        traceback="".join(traceback.format_exception(error))[-2000:],
    )


def fingerprint_of(stage: str, account: ErrorAccount) -> str:
    """The same for errors of one cause: stage, exception and message, names and numbers in it left out.

    Sixteen hexadecimal digits.
    """
    pattern = VARIABLE.sub("#", account.message)
    return sha256("/".join((stage, account.kind, account.type, account.field or "", pattern)).encode())[:16]
