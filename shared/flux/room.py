"""What is done where a device runs out of memory while something computes on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames

import torch

from shared.contracts.errors import ResourceExhausted
from shared.models.residency import Residency, gigabytes
from shared.worker.errors import classify


@contextmanager
def running_out(lender: Residency, device: str) -> Iterator[None]:
    """Where the device runs out of memory all the same, let go of what nobody uses: the next try may then do.

    Args:
        lender: of the models that are in use meanwhile.
        device: what people call it.

    Raises:
        ResourceExhausted: it did.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and classify(error) is not ResourceExhausted:
            raise
        clear_frames(error.__traceback__)  # its activations, which would else live as long as the error does
        dropped = lender.drop_idle()
        raise ResourceExhausted(
            f"{device} ran out of memory beside {gigabytes(lender.figures().device_bytes)} of models ({error}). "
            f"{dropped} models that nobody uses were dropped; or ask for a smaller picture."
        ) from error
