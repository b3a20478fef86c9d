"""What the command line understands, and that its help costs next to nothing."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from doctor_image_gen.cli import main
from doctor_image_gen.cli.parser import build_parser
from doctor_image_gen.cli.wishes import options_of, request_of
from doctor_image_gen.stages import STAGES
from shared.contracts.errors import InvalidInput

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "generate",
    "submit",
    "watch",
    "status",
    "result",
    "cancel",
    "worker",
    "gateway",
    "check",
    "batch",
    "dead",
    "subject",
    "retention",
    "scenarios",
    "recipes",
)
HEAVY = {
    "torch",
    "mediapipe",
    "cv2",
    "dlib",
    "sqlalchemy",
    "minio",
    "pika",
    "kombu",
    "numpy",
    "PIL",
    "pydantic",
    "rich",
}


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(["generate", "--doctor-image", "me.png", *words])


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert [command for command in COMMANDS if command not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert f"usage: doctorgen {command}" in shown.out
    assert shown.err == ""


def test_help_imports_no_library_that_takes_time() -> None:
    code = f"""
import sys
from doctor_image_gen.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
sys.exit(", ".join(sorted({HEAVY!r} & sys.modules.keys())))
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.startswith("usage: doctorgen")
    assert ended.stderr.strip() == ""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["unheard-of"],
        ["worker", "swop"],
        ["generate", "--seed", "many"],
        ["generate", "--priority", "now"],
        ["submit", "--scenario", "consultant"],
        ["watch"],
        ["status", "--limit", "x"],
    ],
)
def test_words_that_are_no_command_end_with_status_2_and_the_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("usage: doctorgen")


def test_every_stage_has_its_worker() -> None:
    for stage in STAGES:
        assert build_parser().parse_args(["worker", stage]).stages == [stage]
    assert build_parser().parse_args(["worker", "swap", "qa"]).stages == ["swap", "qa"]
    assert build_parser().parse_args(["worker", "all"]).stages == ["all"]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("refine.grain=0.3", 0.3),
        ("upscale.width=2048", 2048),
        ("x.flag=true", True),
        ("x.flag=off", False),
        ("x.name=lanczos", "lanczos"),
        ("x.name=", None),
        ("x.name='007'", "007"),
        ("x.name=a=b", "a=b"),
        ("x.list=[1, null]", [1, None]),
    ],
)
def test_set_reads_values_as_yaml_does(words: str, value: Any) -> None:
    assert options_of(parsed("--set", words))[words.partition("=")[0]] == value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("grain", "--set: 'grain' is no NAME=VALUE. Write for instance --set name=value."),
        ("=1", "--set: '=1' is no NAME=VALUE. Write for instance --set name=value."),
        ("x.list=[1", "--set: the value of 'x.list' cannot be read. Put it into quotes."),
        ("x.day=2024-13-99", "--set: the value of 'x.day' cannot be read. Put it into quotes."),
    ],
)
def test_set_refuses_what_it_cannot_read(words: str, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        options_of(parsed("--set", words))
    assert str(refused.value) == message


def test_options_given_twice_add_up() -> None:
    words = parsed("--set", "a.b=1", "--set", "c.d=2", "--attribute", "gender=female", "--attribute", "age=60")
    assert {name: value for name, value in options_of(words).items() if "." in name} == {"a.b": 1, "c.d": 2}
    assert request_of(words)["attributes"] == {"gender": "female", "age": 60}
    assert parsed("--doctor-image", "side.png").doctor_image == ["me.png", "side.png"]


def test_nothing_of_one_command_stays_for_the_next() -> None:
    assert parsed("--set", "a.b=1").set == ["a.b=1"]
    assert parsed().set == []


@pytest.mark.parametrize(
    ("words", "attributes"),
    [
        ("speciality=ear: nose, throat", {"speciality": "ear: nose, throat"}),
        ("gender=no", {"gender": "no"}),
        ("appearance=007", {"appearance": "007"}),
        ("age=45", {"age": 45}),
        ("age=old", {"age": "old"}),
    ],
)
def test_attributes_are_words_but_for_the_age(words: str, attributes: dict[str, Any]) -> None:
    assert request_of(parsed("--attribute", words))["attributes"] == attributes


def test_an_unknown_attribute_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput) as refused:
        request_of(parsed("--attribute", "gendr=female"))
    assert str(refused.value) == (
        "--attribute: there is no 'gendr'. There are: gender, age, speciality, appearance, attire."
    )


def test_what_is_not_said_is_not_passed_on() -> None:
    assert options_of(parsed()) == {"priority": "interactive", "faces": ()}
    assert request_of(parsed()) == {"attributes": {}}


def test_the_plain_options_reach_the_sdk_under_its_names() -> None:
    words = parsed(
        *("--seed", "7", "--recipe", "quick", "--engine", "flux", "--priority", "bulk", "--deadline", "90"),
        *("--face", "1", "2", "--subject", "dr-x", "--consent", "written"),
    )
    assert options_of(words) == {
        "seed": 7,
        "recipe": "quick",
        "engine": "flux",
        "priority": "bulk",
        "deadline_s": 90.0,
        "faces": (1, 2),
    }
    assert request_of(words) == {"attributes": {}, "subject": "dr-x", "consent": {"basis": "written"}}


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--face", "0"], "--face"),
        (["--face", "1", "21"], "--face"),
        (["--max-cost", "-1"], "--max-cost"),
        (["--deadline", "0"], "--deadline"),
        (["--seed", "-1"], "--seed"),
        (["--set", "seed=x"], "--set seed"),
        (["--set", "unheard=1"], "--set unheard"),
        (["--set", "Refine.grain=1"], "--set Refine"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_under_the_option_that_was_typed(words: list[str], option: str) -> None:
    """Not as the place in the SDK's settings, where faces are counted from 0."""
    with pytest.raises(InvalidInput) as refused:
        options_of(parsed(*words))
    assert refused.value.field == option


@pytest.mark.parametrize("option", ["--doctor-image", "--output", "--output-dir"])
def test_an_empty_name_is_no_folder(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As "$PHOTO" gives, where nobody has set it: the working folder would be meant by it."""
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--scenario", "consultant", option, ""])
    assert ended.value.code == 2
    assert f"argument {option}: the name is empty; is a variable of the shell not set?" in capsys.readouterr().err
