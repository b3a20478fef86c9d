"""What is not ours is classified where it enters."""

import errno

import pytest

from shared.contracts.errors import (
    DevicePoisoned,
    DoctorGenError,
    InvalidInput,
    Permanent,
    ResourceExhausted,
    Transient,
)
from shared.worker.errors import account_of, classify


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionResetError("reset"), Transient),
        (TimeoutError("late"), Transient),
        (MemoryError(), ResourceExhausted),
        (OSError(errno.ENOSPC, "full"), ResourceExhausted),
        (RuntimeError("OpenCV: Insufficient memory"), ResourceExhausted),
        (RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 4096"), ResourceExhausted),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."),
            ResourceExhausted,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ResourceExhausted),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), ResourceExhausted),
        (ZeroDivisionError("bug"), Permanent),
        (InvalidInput("photos[1]", "no face", "Send another."), InvalidInput),
    ],
)
def test_each_error_gets_its_class(error: Exception, kind: type[DoctorGenError]) -> None:
    assert classify(error) is kind


@pytest.mark.parametrize("said", [
    "uncorrectable ECC error encountered",
    "an illegal memory access was encountered",
    "the launch timed out and was terminated",
    "device-side assert triggered",
    "hardware stack error",
    "an illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
])  # fmt: skip
@pytest.mark.parametrize("teller", ["CUDA error: {}", "CUDA failure 719: {} ; GPU=0 ; hostname=gpu"])
def test_what_a_device_does_not_get_over_ends_the_worker(teller: str, said: str) -> None:
    """All errors after which CUDA's documentation has the process ended, as torch and as onnxruntime tell them."""
    assert classify(RuntimeError(teller.format(said))) is DevicePoisoned


def test_an_account_names_field_finding_and_mend_of_bad_input() -> None:
    account = account_of(InvalidInput("photos[2]", "no face was found", "Send a photo that shows the face."))
    assert (account.kind, account.field) == ("InvalidInput", "photos[2]")
    assert account.message == "no face was found"
    assert account.hint == "Send a photo that shows the face."


def test_an_account_stays_small_whatever_the_error_says() -> None:
    account = account_of(ValueError("x" * 100_000))
    assert len(account.to_json()) < 4_000
    assert account.type == "ValueError"
