"""What a model that onnxruntime cannot open means for the step: try again elsewhere, or never."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from shared.contracts.errors import DevicePoisoned, DoctorGenError, Permanent, ResourceExhausted
from shared.models.onnx import open_session
from shared.vision.networks import insight
from shared.vision.networks.insight import BUFFALO_L, open_app

NO_ROOM = (
    "[ONNXRuntimeError] : 1 : FAIL : bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested "
    "buffer of size 150994944"
)


def failing(said: str) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(said)

    return fail


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (NO_ROOM, ResourceExhausted),
        ("CUDA failure 2: out of memory ; GPU=0", ResourceExhausted),
        ("CUDA failure 700: an illegal memory access was encountered", DevicePoisoned),
        ("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed.", Permanent),
    ],
)
def test_a_lack_of_room_is_no_fault_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[DoctorGenError]
) -> None:
    """Of a model, and of a pack of them; only what is wrong for ever is told to be verified."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", failing(said))
    monkeypatch.setattr(insight, "get_model", failing(said))
    ways: tuple[Callable[[], Any], ...] = (
        lambda: open_session(tmp_path / "hands/hands.onnx", "cpu"),
        lambda: open_app(tmp_path, "cpu", BUFFALO_L),
    )
    for opening in ways:
        with pytest.raises(DoctorGenError) as raised:
            opening()
        assert type(raised.value) is kind
        assert said in str(raised.value)
        assert ("models verify" in str(raised.value)) == (kind is Permanent)
