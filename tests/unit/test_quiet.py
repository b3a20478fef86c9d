"""Holding back the chatter of native libraries."""

import os

import pytest

from shared.vision.quiet import quiet_native_logs


def test_known_chatter_is_dropped_and_the_rest_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_native_logs():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nout of memory\n")
    assert capfd.readouterr().err == "out of memory\n"


def test_standard_error_comes_back_after_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with quiet_native_logs():
            os.write(2, b"before\n")
            raise RuntimeError("as planned")

    with pytest.raises(RuntimeError, match="as planned"):
        fail()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"
