"""Fetching from Hugging Face, by a fake of its library, and by plain HTTP from a server on this machine."""

import errno
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.contracts.errors import InvalidInput, Permanent, ResourceExhausted, Transient
from shared.models.catalogue import ModelFile, load_models
from shared.models.sources import fetch, fetch_from_hub, fetch_url

WEIGHTS = bytes(range(256)) * 64
GATED = load_models()["flux1-dev-single-file"]


class Server(ThreadingHTTPServer):
    """Serves WEIGHTS at /weights, ending early as often as it is told to."""

    daemon_threads = True
    cut_after: int | None = None
    ranges: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path != "/weights":
            self.send_error({"/busy": 503}.get(self.path, 404))
            return
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start > len(WEIGHTS):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(WEIGHTS) - start))
        self.end_headers()
        self.wfile.write(WEIGHTS[start : self.server.cut_after])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library names it
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as served:
        served.ranges = []
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def url(server: Server, path: str = "weights") -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def silent(_name: str, _done: int, _total: int) -> None:
    """Of a download."""


def test_a_broken_download_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "weights"
    server.cut_after = 1000
    with pytest.raises(Transient, match=r"ended after 1000 of 16384 bytes\. Run the command again"):
        fetch_url(url(server), target, silent)
    assert not target.exists(), "what is unfinished does not look finished"
    server.cut_after = None
    told: list[tuple[int, int]] = []
    fetch_url(url(server), target, lambda _, done, total: told.append((done, total)))
    assert target.read_bytes() == WEIGHTS
    assert server.ranges == [None, "bytes=1000-"]
    assert told[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert list(tmp_path.iterdir()) == [target]


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".weights.part").write_bytes(bytes(len(WEIGHTS) + 1))
    fetch_url(url(server), tmp_path / "weights", silent)
    assert (tmp_path / "weights").read_bytes() == WEIGHTS


@pytest.mark.parametrize(("path", "error"), [("gone", Permanent), ("busy", Transient)])
def test_a_refusal_is_told_by_what_can_be_done(
    server: Server, tmp_path: Path, path: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"/{path}"):
        fetch_url(url(server, path), tmp_path / "weights", silent)


def test_a_server_that_is_not_there_is_passing_trouble(server: Server, tmp_path: Path) -> None:
    dead = url(server)
    server.server_close()
    server.shutdown()
    with pytest.raises(Transient, match="could not be read"):
        fetch_url(dead, tmp_path / "weights", silent)


class HubError(OSError):
    """As all of the library's."""


class Gated(HubError):
    """The terms were not accepted."""


class NotFound(HubError):
    """No such file."""


class Offline(NotFound):
    """No answer, and nothing in its own folder."""


class Hub:
    """What `huggingface_hub` offers of which we need a part."""

    errors = SimpleNamespace(
        GatedRepoError=Gated,
        RepositoryNotFoundError=NotFound,
        EntryNotFoundError=NotFound,
        LocalEntryNotFoundError=Offline,
    )

    def __init__(self, trouble: OSError | None = None) -> None:
        self._trouble = trouble
        self.asked: list[tuple[Any, ...]] = []

    def hf_hub_download(self, repo: str, filename: str, *, local_dir: Path) -> None:
        self._ask(repo, filename, local_dir)

    def snapshot_download(self, repo: str, *, allow_patterns: list[str], local_dir: Path) -> None:
        self._ask(repo, allow_patterns, local_dir)

    def _ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self._trouble is not None:
            raise self._trouble


def test_the_library_is_asked_for_a_file_or_a_whole_folder(tmp_path: Path) -> None:
    hub, tokenizers = Hub(), load_models()["flux-tokenizers"]
    fetch_from_hub(GATED, GATED.files[0], tmp_path, hub)
    fetch_from_hub(tokenizers, tokenizers.files[1], tmp_path, hub)
    assert hub.asked == [
        ("black-forest-labs/FLUX.1-dev", "flux1-dev.safetensors", tmp_path),
        ("black-forest-labs/FLUX.1-schnell", ["tokenizer_2/*"], tmp_path),
    ]


def test_the_library_has_what_is_asked_of_it() -> None:
    """The fake honours the same interface."""
    import inspect

    import huggingface_hub

    assert {"repo_id", "filename", "local_dir"} <= set(inspect.signature(huggingface_hub.hf_hub_download).parameters)
    wanted = {"repo_id", "allow_patterns", "local_dir"}
    assert wanted <= set(inspect.signature(huggingface_hub.snapshot_download).parameters)
    real, fake = huggingface_hub.errors, Hub.errors
    for name in vars(fake):
        assert issubclass(getattr(real, name), Exception)
    assert issubclass(real.LocalEntryNotFoundError, real.EntryNotFoundError)
    assert issubclass(real.GatedRepoError, OSError)


def test_a_machine_without_the_library_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Permanent, match="pip install huggingface_hub"):
        fetch(GATED, GATED.files[0], tmp_path)


def test_a_gated_model_is_explained_step_by_step(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        fetch_from_hub(GATED, GATED.files[0], tmp_path, Hub(Gated("401")))
    for words in (
        "https://huggingface.co/black-forest-labs/FLUX.1-dev",
        "FLUX.1 [dev] Non-Commercial License",
        "HF_TOKEN",
        "doctorgen models download flux1-dev-single-file",
    ):
        assert words in refused.value.mend


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (NotFound("404"), Permanent),
        (Offline("no connection"), Transient),
        (ConnectionResetError("reset"), Transient),
        (OSError(errno.ENOSPC, "No space left on device"), ResourceExhausted),
    ],
)
def test_trouble_is_told_by_what_can_be_done(tmp_path: Path, trouble: OSError, error: type[Exception]) -> None:
    with pytest.raises(error):
        fetch_from_hub(GATED, GATED.files[0], tmp_path, Hub(trouble))


def test_a_file_with_a_url_is_fetched_from_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ModelFile.model_construct(path="w.onnx", url=url(server), size=len(WEIGHTS))
    fetch(load_models()["antelopev2"], file, tmp_path / "new")
    assert (tmp_path / "new" / "w.onnx").read_bytes() == WEIGHTS
