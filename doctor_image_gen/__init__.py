"""The public face: SDK, command line, and the one place that wires everything together."""

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doctor_image_gen.dead import DeadLetters
    from doctor_image_gen.generator import DoctorImageGenerator

__all__ = ["DeadLetters", "DoctorImageGenerator"]

for _package in ("doctor_image_gen", "services", "shared"):
    logging.getLogger(_package).addHandler(logging.NullHandler())  # a library logs for those who configure logging


def __getattr__(name: str) -> Any:
    """Import the SDK when it is first asked for, so that the command line starts at once."""
    if name == "DoctorImageGenerator":
        from doctor_image_gen.generator import DoctorImageGenerator  # noqa: PLC0415

        return DoctorImageGenerator
    if name == "DeadLetters":
        from doctor_image_gen.dead import DeadLetters  # noqa: PLC0415

        return DeadLetters
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
