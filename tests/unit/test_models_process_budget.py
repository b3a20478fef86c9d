"""What models may take of a GPU that a process shares with others."""

import pytest

from shared.contracts.errors import InvalidInput, ResourceExhausted
from shared.models import process
from shared.models.memory import Memory
from shared.models.residency import Budget
from shared.models.settings import vram_bytes

GB = 10**9
HOST = Memory(total_bytes=120 * GB, free_bytes=100 * GB)
CARD = Memory(total_bytes=80 * GB, free_bytes=79 * GB)


def test_a_process_takes_no_more_than_it_is_told() -> None:
    """Working memory is within what it is told."""
    assert process.budget(CARD, HOST, 24 * GB) == Budget(18 * GB, 60 * GB)


def test_what_is_not_free_is_not_promised() -> None:
    """Another worker may have the room, or this one later."""
    with pytest.raises(ResourceExhausted, match=r"vram_gb says 79\.50 GB, and of the device's 80\.00 GB only 79\.00"):
        process.budget(CARD, HOST, int(79.5 * GB))


def test_a_cpu_has_none() -> None:
    assert process.budget(None, HOST, 24 * GB) == process.budget(None, HOST)


def test_the_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vram_bytes() is None
    monkeypatch.setenv("DOCTORGEN_VRAM_GB", "40.5")
    assert vram_bytes() == 40_500_000_000
    monkeypatch.setenv("DOCTORGEN_VRAM_GB", "4")
    with pytest.raises(InvalidInput, match="vram_gb"):
        vram_bytes()
