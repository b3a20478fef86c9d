"""Keeps MediaPipe's and TensorFlow Lite's start-up chatter off standard error.

It is written by native code straight to file descriptor 2 before any of their log flags is read, so neither Python's
logging nor an environment variable reaches it.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

_NOISE = re.compile(
    rb"Created TensorFlow Lite XNNPACK delegate"
    rb"|All log messages before absl::InitializeLog"
    rb"|inference_feedback_manager\.cc"
    rb"|landmark_projection_calculator\.cc"
)
_STDERR = 2
_lock = RLock()


@contextmanager
def quiet_native_logs() -> Iterator[None]:
    """Hold back standard error, then pass on every line but the known chatter. One caller at a time in a process."""
    with _lock, tempfile.TemporaryFile() as held, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"google\.protobuf")
        shown = os.dup(_STDERR)
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(shown, _STDERR)
            os.close(shown)
            held.seek(0)
            for line in held:
                if not _NOISE.search(line):
                    os.write(_STDERR, line)
