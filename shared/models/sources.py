"""Fetches files of models from Hugging Face and by plain HTTPS; both go on where an earlier try ended."""

import errno
import os
import re
from collections.abc import Callable
from glob import escape
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from shared.contracts.errors import InvalidInput, Permanent, ResourceExhausted, Transient
from shared.models.catalogue import Model, ModelFile
from shared.models.lock import pin_of

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60
DIGEST_CHARACTERS = 64
"""Of an ETag that is a SHA-256: Hugging Face gives large files such ones."""

Report = Callable[[str, int, int], None]
"""Told a file's name, the bytes that are there, and those there will be (0: not known)."""


def fetch(model: Model, file: ModelFile, folder: Path, report: Report = lambda _name, _done, _total: None) -> None:
    """Bring one file, or one folder of files, into a model's folder.

    Hugging Face's library shows its own progress; `report` is told of other downloads.

    Raises:
        InvalidInput: the source wants its terms accepted, or an account.
        Permanent: the source has no such file.
        ResourceExhausted: the disk is full.
        Transient: the source cannot be reached, or the connection broke. What has come is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if file.url is not None:
        fetch_url(file.url, folder / file.path, report)
    else:
        fetch_from_hub(model, file, folder, library())


def library() -> Any:
    """`huggingface_hub`, imported only now, with those of its modules that are used.

    Raises:
        Permanent: it is not installed.
    """
    try:
        for module in ("errors", "file_download", "utils"):
            import_module(f"huggingface_hub.{module}")
        return import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise Permanent(
            "Downloads need huggingface_hub, which is not installed: `pip install huggingface_hub`."
        ) from error


def fetch_from_hub(model: Model, file: ModelFile, folder: Path, hub: Any, endpoint: str | None = None) -> None:
    """The same from Hugging Face, by its library `huggingface_hub`, or from another server of its kind.

    The library's own `hf_hub_download` begins anew when it was ended, so of the library only the parts are used.
    """
    try:
        for path in _paths(model, file, hub, endpoint):
            _fetch_one(model, path, folder, hub, endpoint)
    except hub.errors.GatedRepoError as error:
        raise InvalidInput(
            model.name, "its source gives it only to those who accepted its terms", terms(model)
        ) from error
    except (hub.errors.RepositoryNotFoundError, hub.errors.EntryNotFoundError) as error:
        raise Permanent(f"{model.source} has no {file.path} any more: {_short(error)}") from error
    except (OSError, hub.errors.HTTPError) as error:
        raise _of_disk_or_net(error, model.source) from error


def _paths(model: Model, file: ModelFile, hub: Any, endpoint: str | None) -> list[str]:
    """The file's path in its repository, or those of all files in the folder that it means."""
    if file.folder is None:
        return [file.path]
    entries = hub.HfApi(endpoint=endpoint).list_repo_tree(model.hub, file.folder, recursive=True)
    return [entry.path for entry in entries if hasattr(entry, "size")]


def _fetch_one(model: Model, path: str, folder: Path, hub: Any, endpoint: str | None) -> None:
    """Fetch into a hidden `.part`, named after the version of the file that it is a part of, and go on with it."""
    url = hub.hf_hub_url(model.hub, path, endpoint=endpoint)
    wanted = hub.get_hf_file_metadata(url, endpoint=endpoint)
    target = folder / path
    if target.is_file() and target.stat().st_size == wanted.size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    version = re.sub(r"\W", "", wanted.etag or "")
    part = target.with_name(f".{target.name}.{version[:16]}.part")
    headers = hub.utils.build_hf_headers()
    if urlsplit(url).netloc != urlsplit(wanted.location).netloc:
        headers.pop("authorization", None)  # the token is for Hugging Face, not for who keeps its files
    part.touch()
    with part.open("r+b") as unfinished:
        have = unfinished.seek(0, os.SEEK_END)
        hub.file_download.http_get(
            wanted.location,
            unfinished,
            resume_size=have,
            headers=headers,
            expected_size=wanted.size,
            displayed_filename=path,
        )
    if len(version) == DIGEST_CHARACTERS and pin_of(part).sha256 != version:
        part.unlink()
        raise Transient(f"{path} of {model.source} arrived damaged. Run the command again.")
    part.replace(target)
    for stale in target.parent.glob(f".{escape(target.name)}.*.part"):
        stale.unlink()


def terms(model: Model) -> str:
    """How to come by a gated model."""
    return (
        f"Sign in to {model.source}, read and accept the licence ({model.licence}), make a token with read access at "
        f"https://huggingface.co/settings/tokens, set HF_TOKEN to it, and run `doctorgen models download {model.name}` "
        f"again."
    )


def fetch_url(url: str, target: Path, report: Report) -> None:
    """Fetch a file into `target`, which appears when it is complete; until then there is a hidden `.part`."""
    part = target.with_name(f".{target.name}.part")
    have = part.stat().st_size if part.exists() else 0
    try:
        with urlopen(_request(url, have), timeout=TIMEOUT_S) as response:  # noqa: S310 - the catalogue has https only
            _receive(response, part, have, report, target.name)
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            part.unlink()  # it is longer than the file: another one by now
            fetch_url(url, target, report)
            return
        if error.code in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            raise Permanent(f"There is nothing at {url} any more.") from error
        raise Transient(f"{url} answers {error.code} {error.reason}. Try again later.") from error
    except (OSError, HTTPException) as error:
        raise _of_disk_or_net(error, url) from error
    part.replace(target)


def _request(url: str, have: int) -> Request:
    return Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - as above


def _receive(response: HTTPResponse, part: Path, have: int, report: Report, name: str) -> None:
    goes_on = response.status == HTTPStatus.PARTIAL_CONTENT
    done = have if goes_on else 0
    length = response.headers.get("Content-Length")
    total = done + int(length) if length else 0
    with part.open("ab" if goes_on else "wb") as file:
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            report(name, done, total)
    if done < total:
        raise ConnectionError(f"it ended after {done} of {total} bytes")


def _of_disk_or_net(error: Exception, source: str) -> Exception:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ResourceExhausted(
            f"The disk is full: {_short(error)} Make room, then run the command again: it goes on."
        )
    return Transient(_unread(source, error))


def _unread(source: str, error: Exception) -> str:
    return f"{source} could not be read: {_short(error)} Run the command again: it goes on where it ended."


def _short(error: Exception) -> str:
    """The first line of what it says, as a sentence."""
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".") + "."
