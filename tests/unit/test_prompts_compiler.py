"""The compiler joins scenario, style, attributes and the caller's words, in order, deterministically, within bounds."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.brief import PROMPT_LIMIT_CHARACTERS, Brief
from shared.contracts.errors import InvalidInput
from shared.contracts.request import SubjectAttributes
from shared.prompts.catalogue import load_catalogue
from shared.prompts.compiler import compile_brief

CATALOGUE = load_catalogue()
NOBODY = SubjectAttributes()
KNOWN = SubjectAttributes(
    gender="female", age=45, speciality="cardiology", appearance="grey curly hair, round glasses", attire="green scrubs"
)
WITH_PEOPLE = {"consultant", "speaker", "examination", "team_meeting", "compassionate_care"}


def brief(
    scenario: str = "consultant", style: str | None = None, attributes: SubjectAttributes = NOBODY, words: str = ""
) -> Brief:
    return compile_brief(CATALOGUE, scenario, style, attributes, words)


def test_the_prompt_goes_from_the_subject_to_the_manner() -> None:
    made = brief("consultant", "cinematic", KNOWN, "holding a red folder")
    parts = [
        "A 45-year-old female doctor (cardiology) consulting with a patient",
        "in a bright modern consulting room",
        "a warm attentive smile",
        "grey curly hair, round glasses",
        "wearing green scrubs",
        "holding a red folder",
        "the doctor in the foreground in sharp focus, a patient seated across the desk behind, softly blurred",
        "cinematic lighting",
        "50mm anamorphic",
        "film still",
        "photorealistic",
    ]
    assert made.prompt.startswith(parts[0])
    assert [made.prompt.index(part) for part in parts] == sorted(made.prompt.index(part) for part in parts)
    assert "{" not in made.prompt


def test_the_brief_carries_the_scenarios_data() -> None:
    made = brief("research")
    scenario = CATALOGUE.scenario("research")
    assert (made.scenario, made.scenario_name, made.style) == ("research", "Research Laboratory", "editorial")
    assert (made.focus, made.framing) == ("innovation", scenario.framing)
    assert made.backdrop == CATALOGUE.backdrops["laboratory"]


def test_the_style_is_the_scenarios_own_unless_one_is_named() -> None:
    assert brief("surgery_prep").style == "cinematic"
    assert brief("surgery_prep", "clinical").style == "clinical"


@pytest.mark.parametrize("scenario", sorted(CATALOGUE.scenarios))
def test_scenes_with_other_people_put_the_doctor_first_and_hold_the_face_more_gently(scenario: str) -> None:
    made = brief(scenario)
    together = scenario in WITH_PEOPLE
    assert bool(made.people) == together
    assert made.identity_weight == (0.7 if together else None)
    assert ("the doctor in the foreground in sharp focus" in made.prompt) == together
    assert ("softly blurred" in made.prompt) == together
    assert all(person in made.prompt for person in made.people)


@pytest.mark.parametrize("style", sorted(CATALOGUE.styles))
def test_the_negative_prompt_names_all_three_groups_and_the_styles_own(style: str) -> None:
    negative = brief(style=style).negative_prompt.split(", ")
    assert {"bad anatomy", "distorted features", "watermark", "signature", "cartoon", "anime"} <= set(negative)
    assert set(CATALOGUE.style(style).negatives) <= set(negative)
    assert len(negative) == len(set(negative))


@pytest.mark.parametrize(
    ("attributes", "start"),
    [
        (NOBODY, "A doctor at the bench"),
        (SubjectAttributes(age=84), "An 84-year-old doctor at"),
        (SubjectAttributes(age=18, gender="male"), "An 18-year-old male doctor at"),
        (SubjectAttributes(age=108), "A 108-year-old doctor at"),
        (SubjectAttributes(gender="older female"), "An older female doctor at"),
        (SubjectAttributes(speciality="oncology"), "A doctor (oncology) at"),
    ],
)
def test_the_subject_is_told_by_what_is_known(attributes: SubjectAttributes, start: str) -> None:
    assert brief("research", attributes=attributes).prompt.startswith(start)


def test_attire_is_the_callers_or_else_the_scenarios() -> None:
    assert "wearing a crisp white lab coat over a shirt" in brief("lab_coat_portrait").prompt
    assert brief("lab_coat_portrait", attributes=KNOWN).prompt.count("wearing ") == 1


def test_nothing_said_leaves_no_trace() -> None:
    prompt = brief("lab_coat_portrait").prompt
    assert ", ," not in prompt
    assert "  " not in prompt
    assert "None" not in prompt


@pytest.mark.parametrize(
    "words", ["{photography_keywords}", "{subject}", "{0.__class__}", "{", "}}{{", "%s \\1 \\g<0>"]
)
def test_the_callers_words_are_taken_literally(words: str) -> None:
    made = brief(words=words, attributes=SubjectAttributes(gender=words))
    assert made.prompt.count(words) == 2
    assert made.prompt.startswith(f"A {words} doctor")


def test_line_breaks_and_control_characters_become_spaces() -> None:
    assert ", red folder on the desk, " in brief(words=" red\0folder\n\n on\tthe \x1b desk\ud800 ").prompt


@given(st.text(max_size=1000), st.sampled_from(sorted(CATALOGUE.scenarios)), st.sampled_from(sorted(CATALOGUE.styles)))
def test_any_words_of_a_lawful_length_make_a_lawful_brief(words: str, scenario: str, style: str) -> None:
    made = brief(scenario, style, words=words)
    assert len(made.prompt) <= PROMPT_LIMIT_CHARACTERS
    assert Brief.from_json(made.to_json()) == made


def test_the_longest_words_fit_every_scenario_in_every_style() -> None:
    """Also with a doctor fully described."""
    for scenario, style in itertools.product(CATALOGUE.scenarios, CATALOGUE.styles):
        made = brief(scenario, style, KNOWN, "w" * 1000)
        assert "w" * 1000 in made.prompt
        assert len(made.prompt) < PROMPT_LIMIT_CHARACTERS


def test_words_over_the_limit_are_refused_with_their_length() -> None:
    with pytest.raises(InvalidInput) as caught:
        brief(words="w" * 1001)
    assert str(caught.value) == "custom_prompt: it is 1,001 characters long. Shorten it to at most 1,000."


def test_a_prompt_grown_too_long_by_attributes_tells_by_how_much() -> None:
    wordy = SubjectAttributes(gender="g" * 200, speciality="s" * 200, appearance="a" * 200, attire="t" * 200)
    with pytest.raises(InvalidInput) as caught:
        brief(attributes=wordy, words="w" * 1000)
    assert caught.value.field == "custom_prompt"
    assert "with 1,000 characters of it the prompt has" in caught.value.found
    excess = int(caught.value.mend.split(" by ")[1].split()[0])
    assert len(brief(attributes=wordy, words="w" * (1000 - excess)).prompt) == PROMPT_LIMIT_CHARACTERS


@pytest.mark.parametrize(
    ("scenario", "style", "field", "near"),
    [("speakr", None, "scenario", "speaker"), ("speaker", "studioo", "photography_style", "studio")],
)
def test_unknown_names_are_refused(scenario: str, style: str | None, field: str, near: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        brief(scenario, style)
    assert caught.value.field == field
    assert f"Did you mean {near}" in caught.value.mend


@pytest.mark.parametrize("scenario", sorted(CATALOGUE.scenarios))
def test_a_brief_leaves_room_in_a_message(scenario: str) -> None:
    """A job's message must stay under 16 KB; the brief is the largest thing in it."""
    for style in CATALOGUE.styles:
        assert len(brief(scenario, style, KNOWN, "w" * 1000).to_json()) <= 6 * 1024


def test_a_users_scenario_needs_four_lines_and_gets_the_rest(tmp_path: Path) -> None:
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios/dental.yaml").write_text(
        "name: Dental\nfocus: ease\npeople: [a patient, a nurse]\n"
        "prompt: 'in a dental surgery, {photography_keywords}'\n"
    )
    (tmp_path / "styles").mkdir()
    (tmp_path / "styles/plain.yaml").write_text("name: Plain\nmanner: [plain photograph]\n")
    made = compile_brief(load_catalogue(tmp_path), "dental", "plain", NOBODY, "")
    assert made.prompt == (
        "A doctor, in a dental surgery, the doctor in the foreground in sharp focus, a patient and a nurse behind, "
        "softly blurred, soft studio lighting, gentle fill light, shot on Sony A7R IV, 85mm f/1.8, plain photograph, "
        "photorealistic, natural skin texture, true-to-life colours"
    )
    assert made.identity_weight == 0.7


def test_the_same_arguments_give_the_same_brief_in_another_process() -> None:
    script = (
        "import sys; from shared.contracts.request import SubjectAttributes;"
        "from shared.prompts.catalogue import load_catalogue; from shared.prompts.compiler import compile_brief;"
        "made = compile_brief(load_catalogue(), 'speaker', 'event', SubjectAttributes(age=50), 'words');"
        "sys.stdout.buffer.write(made.to_json())"
    )
    there = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, env={"PYTHONHASHSEED": "77"}
    ).stdout
    assert there == brief("speaker", "event", SubjectAttributes(age=50), "words").to_json()
