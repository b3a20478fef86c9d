"""Fetching by plain HTTP and with Hugging Face's library, both from a server on this machine."""

import errno
import json
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared.contracts.errors import InvalidInput, Permanent, ResourceExhausted, Transient
from shared.models.catalogue import ModelFile, load_models
from shared.models.sources import fetch, fetch_from_hub, fetch_url, library

WEIGHTS = bytes(range(256)) * 64
DIGEST = sha256(WEIGHTS).hexdigest()
GATED = load_models()["flux1-dev-single-file"]


class Server(ThreadingHTTPServer):
    """Serves WEIGHTS at /weights, ending early as often as it is told to."""

    daemon_threads = True
    cut_after: int | None = None
    elsewhere = False
    ranges: list[str | None]
    tokens: list[str | None]


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
        served.ranges, served.tokens = [], []
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


class HubHandler(BaseHTTPRequestHandler):
    """Speaks as Hugging Face does, of one repository whose every large file is WEIGHTS."""

    server: Server

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        if "/tree/" not in self.path:
            self._answer(with_body=True)
            return
        rows: list[dict[str, str | int]] = [{"type": "directory", "path": "vae/deep", "oid": "1"}]
        rows += [{"type": "file", "path": path, "oid": "1", "size": 1} for path in ("vae/w.bin", "vae/deep/w.bin")]
        body = json.dumps(rows).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, *, with_body: bool) -> None:
        code = "GatedRepo" if "gated" in self.path else "EntryNotFound"
        if "gated" in self.path or not self.path.endswith("w.bin"):
            self.send_response(401 if code == "GatedRepo" else 404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if with_body:
            self.server.ranges.append(wanted)
            self.server.tokens.append(self.headers.get("Authorization"))
        elif self.server.elsewhere:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}{self.path}")
            self.send_header("X-Linked-ETag", f'"{DIGEST}"')
            self.send_header("X-Linked-Size", str(len(WEIGHTS)))
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{DIGEST}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(WEIGHTS) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(WEIGHTS) - 1}/{len(WEIGHTS)}")
        self.end_headers()
        if with_body:
            self.wfile.write(WEIGHTS[start:])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library names it
        """Says nothing."""


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library as it is, allowed to reach the server on this machine."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.RequestHandlerClass = HubHandler
    return library()


def bring(server: Server, hub: Any, folder: Path, path: str = "w.bin") -> None:
    file = ModelFile.model_construct(path=path, size=len(WEIGHTS), url=None)
    fetch_from_hub(GATED, file, folder, hub, url(server, "").rstrip("/"))


def test_the_hub_s_file_is_fetched_whole(server: Server, hub: Any, tmp_path: Path) -> None:
    bring(server, hub, tmp_path)
    assert (tmp_path / "w.bin").read_bytes() == WEIGHTS
    assert list(tmp_path.iterdir()) == [tmp_path / "w.bin"]
    bring(server, hub, tmp_path)
    assert server.ranges == [None], "what is there is not fetched again"


def test_the_hub_s_file_goes_on_where_an_earlier_process_ended(server: Server, hub: Any, tmp_path: Path) -> None:
    part = tmp_path / f".w.bin.{DIGEST[:16]}.part"
    part.write_bytes(WEIGHTS[:1000])
    bring(server, hub, tmp_path)
    assert server.ranges == ["bytes=1000-"]
    assert (tmp_path / "w.bin").read_bytes() == WEIGHTS


def test_a_part_of_another_version_is_not_gone_on_with(server: Server, hub: Any, tmp_path: Path) -> None:
    (tmp_path / ".w.bin.0123456789abcdef.part").write_bytes(bytes(1000))
    bring(server, hub, tmp_path)
    assert server.ranges == [None]
    assert (tmp_path / "w.bin").read_bytes() == WEIGHTS
    assert list(tmp_path.iterdir()) == [tmp_path / "w.bin"], "it is cleared away"


def test_what_arrives_damaged_is_noticed_by_the_hub_s_own_digest(server: Server, hub: Any, tmp_path: Path) -> None:
    part = tmp_path / f".w.bin.{DIGEST[:16]}.part"
    part.write_bytes(bytes(1000))
    with pytest.raises(Transient, match="arrived damaged"):
        bring(server, hub, tmp_path)
    assert list(tmp_path.iterdir()) == [], "the next try begins anew"


def test_the_token_is_shown_to_the_hub_and_to_nobody_else(server: Server, hub: Any, tmp_path: Path) -> None:
    """The hub sends those who ask for a large file on to another host."""
    bring(server, hub, tmp_path / "here")
    server.elsewhere = True
    bring(server, hub, tmp_path / "elsewhere")
    assert server.tokens == ["Bearer hf_secret", None]
    assert (tmp_path / "elsewhere" / "w.bin").read_bytes() == WEIGHTS


def test_a_folder_is_fetched_file_by_file(server: Server, hub: Any, tmp_path: Path) -> None:
    bring(server, hub, tmp_path, "vae/*")
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["vae/deep/w.bin", "vae/w.bin"]


def test_a_machine_without_the_library_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(Permanent, match="pip install huggingface_hub"):
        fetch(GATED, GATED.files[0], tmp_path)


def test_a_gated_model_is_explained_step_by_step(server: Server, hub: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        bring(server, hub, tmp_path, "gated.bin")
    for words in (
        "https://huggingface.co/black-forest-labs/FLUX.1-dev",
        "FLUX.1 [dev] Non-Commercial License",
        "HF_TOKEN",
        "doctorgen models download flux1-dev-single-file",
    ):
        assert words in refused.value.mend


def test_what_the_hub_has_no_more_is_told(server: Server, hub: Any, tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"has no nothing\.bin any more"):
        bring(server, hub, tmp_path, "nothing.bin")


def test_a_hub_that_does_not_answer_is_passing_trouble(server: Server, hub: Any, tmp_path: Path) -> None:
    file = ModelFile.model_construct(path="w.bin", size=len(WEIGHTS), url=None)
    with pytest.raises(Transient, match="could not be read"):
        fetch_from_hub(GATED, file, tmp_path, hub, "http://127.0.0.1:9")


def test_a_full_disk_is_told_apart(server: Server, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub.file_download, "http_get", full)
    with pytest.raises(ResourceExhausted, match="Make room"):
        bring(server, hub, tmp_path)


def test_a_file_with_a_url_is_fetched_from_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ModelFile.model_construct(path="w.onnx", url=url(server), size=len(WEIGHTS))
    fetch(load_models()["antelopev2"], file, tmp_path / "new")
    assert (tmp_path / "new" / "w.onnx").read_bytes() == WEIGHTS
