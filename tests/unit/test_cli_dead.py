"""`doctorgen dead …` typed as an operator types it: what is printed where, the exit status, what becomes of letters."""

import json
import stat
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from doctor_image_gen.cli import line_file
from doctor_image_gen.cli.ages import age
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.contracts.dead_letter import DeadLetter
from shared.jobs.port import LetterFilter
from tests.contract.jobs_samples import job
from tests.unit.letter_samples import DAWN, at, letter, raw_letter
from tests.unit.typed import Said, Type

NOTHING = "no dead letters\n"


@pytest.fixture
def file(tmp_path: Path, type_in: Type) -> Callable[..., None]:
    """Files letters where the commands look."""

    def file(*letters: DeadLetter) -> None:
        with closing(Connections.open(Settings(data_dir=tmp_path / "data"))) as connections:
            assert all(connections.jobs.file_letter(one) for one in letters)

    return file


@pytest.fixture
def states(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """How all letters stand."""

    def states() -> dict[str, str]:
        with closing(Connections.open(Settings(data_dir=tmp_path / "data"))) as connections:
            filed = connections.jobs.letters(LetterFilter(state=None))
        return {one.letter.letter_id: one.state for one in filed}

    return states


def test_no_letter_is_not_a_number_of_letters(type_in: Type) -> None:
    told = "doctorgen: --limit: -1 letters were asked for. Ask for at least one.\n"
    assert type_in("dead", "list", "--each", "--limit", "-1") == Said(2, "", told)


def test_list_shows_causes_with_counts_and_an_example(type_in: Type, file: Callable[..., None]) -> None:
    assert type_in("dead", "list") == Said(0, "", NOTHING)
    file(letter(1), letter(2), letter(3, fingerprint="f2"))
    said = type_in("dead", "list")
    assert (said.status, said.err) == (0, "")
    header, first, second = [line.split() for line in said.out.splitlines()]
    assert header == ["stage", "error", "count", "oldest", "newest", "fingerprint", "example"]
    assert first[:6] == ["upscale", "ZeroDivisionError:", "broken", "on", "purpose", "2"]
    assert first[-2:] in (["f1", "letter-1"], ["f1", "letter-2"])
    assert second[-2:] == ["f2", "letter-3"]


def test_list_as_json_and_letter_by_letter(type_in: Type, file: Callable[..., None]) -> None:
    file(letter(1), letter(2), letter(3, fingerprint="f2"))
    (group,) = json.loads(type_in("dead", "list", "--fingerprint", "f2", "--json").out)
    assert (group["count"], group["example"], group["example_message"]) == (1, "letter-3", "broken on purpose")
    each = json.loads(type_in("dead", "list", "--each", "--limit", "2", "--json").out)
    assert [one["letter"]["letter_id"] for one in each] == ["letter-1", "letter-2"]
    assert "letter-3" in type_in("dead", "list", "--each").out


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--stage", "upscale"], 2),
        (["--stage", "qa"], 0),
        (["--stage", "intake"], 1),
        (["--step", "two"], 2),
        (["--kind", "Permanent"], 2),
        (["--job", "job-1"], 1),
        (["--batch", "b"], 0),
        (["--caller", "tester"], 2),
        (["--subject", "somebody"], 2),
        (["--state", "discarded"], 0),
        (["--state", "any"], 3),
    ],
)
def test_each_filter_filters(type_in: Type, file: Callable[..., None], words: list[str], count: int) -> None:
    file(letter(1), letter(2), raw_letter("nonsense"))
    assert len(json.loads(type_in("dead", "list", "--each", "--json", *words).out)) == count


def test_show_explains_a_letter(type_in: Type, file: Callable[..., None], tmp_path: Path) -> None:
    with closing(Connections.open(Settings(data_dir=tmp_path / "data"))) as connections:
        connections.jobs.add(job("job-1"))
    file(letter(1, input_digests={"text": ("a" * 64,)}))
    said = type_in("dead", "show", "job-1")
    assert (said.status, said.err) == (0, "")
    for words in (
        "letter letter-1: open",
        "job       job-1: accepted, run 0; subject somebody, caller tester",
        "request   consultant, 1 photo\n",
        "step      two (2 of 3), run 0: upscale.append version 1, engine portable",
        'params    {"word": "!", "fail": 0, "broken": false}',
        f"input     text = one.text: {'a' * 64}",
        "attempts  3",
        "  first   2026-11-20 06:00:00 w1: broken on purpose",
        "error     Permanent (ZeroDivisionError): broken on purpose",
        "traceback\n  line 1\n  line 2",
        "what would help\n  Mend it.\n  doctorgen dead replay letter-1\n  doctorgen dead replay --fingerprint f1",
    ):
        assert words in said.out
    document = json.loads(type_in("dead", "show", "letter-1", "--json").out)
    assert document["letter"] == json.loads(letter(1, input_digests={"text": ("a" * 64,)}).to_json())
    assert (document["state"], document["job"]["state"]) == ("open", "accepted")
    assert document["what_would_help"][0] == "Mend it."


def test_show_of_what_could_not_be_read_shows_the_body(type_in: Type, file: Callable[..., None]) -> None:
    file(raw_letter("[bold]nonsense"))
    said = type_in("dead", "show", "raw-1")
    assert "body      [bold]nonsense\n" in said.out


def test_a_dry_run_says_what_would_be_done(
    type_in: Type, file: Callable[..., None], states: Callable[[], dict[str, str]]
) -> None:
    file(letter(1), letter(2))
    said = type_in("dead", "replay", "--all", "--from-step", "one", "--dry-run")
    assert said == Said(
        0,
        "letter-1 planned: job job-1 from 'one' as run 1\nletter-2 planned: job job-2 from 'one' as run 1\n",
        "2 planned\n",
    )
    assert set(states().values()) == {"open"}
    lines = type_in("dead", "replay", "letter-1", "--dry-run", "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "letter_id": "letter-1",
            "result": "planned",
            "words": "job job-1 from 'two' as run 1",
            "job_id": "job-1",
            "run": 1,
        }
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["show", "nope"],
            "letter: there is no dead letter 'nope', and none of a job of that id. `doctorgen dead list`",
        ),
        (["replay", "nope", "--dry-run"], "letter: there is no dead letter 'nope', and none of a job of that id."),
        (["replay"], "letters: neither an id nor a filter is given. Name ids, or say by a filter which are meant"),
        (["replay", "letter-1", "--stage", "qa"], "letters: both ids and a filter are given."),
        (["discard"], "letters: neither an id nor a filter is given."),
        (
            ["replay", "letter-1", "--dry-run", "--from-step", "tow"],
            "from_step: job job-1 has no step 'tow'. Did you mean",
        ),
        (["replay", "letter-1", "--dry-run", "--set", "tow.x=1"], "overrides.tow: job job-1 has no step of that name."),
        (["replay", "letter-1", "--dry-run", "--set", "x=1"], "overrides.x: it names no parameter. Write it as"),
        (["replay", "letter-1", "--dry-run", "--rate", "0"], "rate: found 0. Give how many letters a second"),
        (["replay", "--all", "--dry-run", "--from-step", "tow"], "from_step: job job-1 has no step 'tow'."),
        (["list", "--fingerprint", "a/b"], "fingerprint: String should match pattern"),
        (["discard", "--all"], "--yes: Discard 2 letters? Nobody is there to answer. Add --yes."),
        (["import", "nowhere.jsonl"], "FILE: 'nowhere.jsonl' cannot be read (No such file or directory). Name a file"),
        (["export", "no/where.jsonl"], "FILE: 'no/where.jsonl' cannot be written (No such file or directory)."),
    ],
)
def test_what_cannot_be_done_says_why_and_loses_nothing(
    type_in: Type,
    file: Callable[..., None],
    states: Callable[[], dict[str, str]],
    words: list[str],
    message: str,
) -> None:
    file(letter(1), letter(2))
    said = type_in("dead", *words)
    assert said.status == 2
    assert said.err.splitlines()[-1].startswith(f"doctorgen: {message}")
    assert set(states().values()) == {"open"}
    assert list(Path().iterdir()) == []


def test_discard_asks_where_more_than_one_is_meant(
    type_in: Type,
    file: Callable[..., None],
    states: Callable[[], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file(*(letter(number) for number in range(5)))

    class Terminal(TextIOWrapper):
        def isatty(self) -> bool:
            return True

    def answer(words: bytes) -> Said:
        monkeypatch.setattr("sys.stdin", Terminal(BytesIO(words)))
        return type_in("dead", "discard", "letter-1", "letter-2")

    assert answer(b"\n") == Said(1, "", "Discard 2 letters? [y/N] ")
    assert set(states().values()) == {"open"}
    assert answer(b"y\n") == Said(0, "discarded 2\n", "Discard 2 letters? [y/N] ")
    assert type_in("dead", "discard", "letter-3") == Said(0, "discarded 1\n", "")
    assert type_in("dead", "discard", "--all", "--yes") == Said(0, "discarded 2\n", "")
    assert set(states().values()) == {"discarded"}
    assert type_in("dead", "list") == Said(0, "", NOTHING)
    assert "letter-4: discarded at " in type_in("dead", "show", "letter-4").out


def test_export_and_import_carry_letters_elsewhere(
    type_in: Type, file: Callable[..., None], states: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file(letter(1), letter(2))
    assert type_in("dead", "export", "letters.jsonl") == Said(0, "", "exported 2\n")
    assert stat.S_IMODE(Path("letters.jsonl").stat().st_mode) == 0o600, "letters speak of people"
    lines = Path("letters.jsonl").read_bytes().splitlines()
    assert [DeadLetter.from_json(line) for line in lines] == [letter(1), letter(2)]
    assert type_in("dead", "export", "-", "--job", "job-2").out.encode().splitlines() == lines[1:]

    assert type_in("dead", "import", "letters.jsonl") == Said(0, "filed 0, standing already 2, malformed 0\n", "")
    monkeypatch.setenv("DOCTORGEN_DATA_DIR", str(Path("elsewhere").absolute()))
    Path("letters.jsonl").write_bytes(lines[0] + b"\nnonsense\n" + lines[1])
    said = type_in("dead", "import", "letters.jsonl")
    assert said.status == 1
    assert said.out == "filed 2, standing already 0, malformed 1\n"
    assert said.err.startswith("line 2: DeadLetter: Invalid JSON")
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"\n".join(lines))))
    assert type_in("dead", "import", "-").out == "filed 0, standing already 2, malformed 0\n"


def test_an_import_of_something_else_does_not_fill_the_screen(type_in: Type) -> None:
    Path("picture.png").write_bytes(b"\x89PNG\n" * 500)
    said = type_in("dead", "import", "picture.png")
    assert said.out == "filed 0, standing already 0, malformed 500\n"
    assert len(said.err.splitlines()) == 21
    assert said.err.endswith("and 480 more lines like these\n")


def test_a_line_without_end_is_one_malformed_line(type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_file, "LINE_LIMIT_BYTES", 10_000)
    Path("long.jsonl").write_bytes(b"x" * 45_000 + b"\n" + letter(1).to_json() + b"\n" + b"y" * 10_000)
    said = type_in("dead", "import", "long.jsonl")
    assert said.out == "filed 1, standing already 0, malformed 2\n"
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["line 1", "line 3"]


def test_an_export_that_fails_leaves_the_file_that_stood(
    type_in: Type, file: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    file(letter(1))
    Path("letters.jsonl").write_text("precious")

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(line_file, "_write_to", full)
    said = type_in("dead", "export", "letters.jsonl")
    assert said.err.startswith("doctorgen: FILE: 'letters.jsonl' cannot be written (No space left on device).")
    assert [path.read_text() for path in Path().iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (86_400 * 3.5, "3 d")],
)
def test_ages_are_told_in_their_largest_unit(seconds: float, words: str) -> None:
    assert age(DAWN, DAWN + timedelta(seconds=seconds)) == words
    assert at(0) == DAWN
