"""Pickles of tensors become safetensors; pickles that want to run code do not."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shared.contracts.errors import IntegrityError, Permanent
from shared.models.catalogue import load_models, parse
from shared.models.convert import to_safetensors
from shared.models.prepare import convert
from shared.models.shelf import Shelf

TENSORS = {"layer.weight": torch.arange(12.0).reshape(3, 4), "layer.bias": torch.ones(3, dtype=torch.float16)}


class Bomb:
    """Leaves a file behind when its pickle is opened without care."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


def saved(folder: Path, document: object, *, legacy: bool = False) -> Path:
    path = folder / "weights.pth"
    torch.save(document, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize(
    "document",
    [
        TENSORS,
        OrderedDict(TENSORS),
        {"params": TENSORS},
        {"params": {"old": torch.zeros(1)}, "params_ema": TENSORS},
        {"state_dict": TENSORS, "epoch": 3, "optimizer": {"step": 1}},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_the_tensors_come_out_unchanged_however_they_are_wrapped(
    tmp_path: Path, document: object, legacy: bool
) -> None:
    target = tmp_path / "weights.safetensors"
    assert to_safetensors(saved(tmp_path, document, legacy=legacy), target) == len(TENSORS)
    found = load_file(target)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_same_pickle_gives_the_same_bytes(tmp_path: Path) -> None:
    source = saved(tmp_path, TENSORS)
    for name in ("one", "two"):
        to_safetensors(source, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_tensors_that_share_memory_are_each_written_whole(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    to_safetensors(
        saved(tmp_path, {"whole": whole, "view": whole[2:4], "turned": whole.reshape(2, 3).T}), tmp_path / "s"
    )
    found = load_file(tmp_path / "s")
    assert torch.equal(found["view"], whole[2:4])
    assert torch.equal(found["turned"], whole.reshape(2, 3).T)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_wants_to_run_code_is_refused_before_it_runs_any(tmp_path: Path, legacy: bool) -> None:
    mark = tmp_path / "boom"
    source = saved(tmp_path, {"params": TENSORS, "extra": Bomb(mark)}, legacy=legacy)
    with pytest.raises(Permanent, match=r"it wants posix\.mkdir to be run\. Nothing of it was run"):
        to_safetensors(source, tmp_path / "weights.safetensors")
    assert not mark.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.pth"]


@pytest.mark.parametrize("document", [{}, [torch.zeros(1)], {"a": torch.zeros(1), "b": 7}, {"params": {"a": "text"}}])
def test_what_is_no_list_of_tensors_is_refused(tmp_path: Path, document: object) -> None:
    with pytest.raises(Permanent, match=r"holds (no list of tensors|something else than tensors)"):
        to_safetensors(saved(tmp_path, document), tmp_path / "weights.safetensors")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_or_foreign_file_is_told_apart_from_a_dangerous_one(tmp_path: Path, legacy: bool) -> None:
    source = saved(tmp_path, {"a": torch.zeros(1000)}, legacy=legacy)
    data = source.read_bytes()
    for damaged in (data[: len(data) // 2], b"<html>not found</html>", b""):
        source.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"cannot be read: .*Delete it and download it again"):
            to_safetensors(source, tmp_path / "weights.safetensors")


def test_a_model_is_converted_once_and_pinned(tmp_path: Path) -> None:
    source = saved(tmp_path, {"params_ema": TENSORS})
    entry = load_models()["codeformer-v0.1.0"]
    file = f"{{path: codeformer.pth, bytes: {source.stat().st_size}}}"
    catalogue = parse(
        f"{{tiny: {{title: Tiny, role: {entry.role}, licence: x, commercial: true, memory_bytes: 1, format: pickle, "
        f"hub: a/b, gives: [codeformer.safetensors], files: [{file}]}}}}"
    )
    shelf, tiny = Shelf(tmp_path / "models"), catalogue["tiny"]
    download = shelf.path(tiny, "codeformer.pth")
    download.parent.mkdir(parents=True)
    source.rename(download)
    assert convert(shelf, tiny) == ("codeformer.safetensors",)
    assert list(shelf.require(tiny)) == ["codeformer.safetensors"]
    assert len(shelf.digest(tiny)) == 64
    download.unlink()
    assert convert(shelf, tiny) == ()
    assert shelf.verify(tiny).state == "ready"
