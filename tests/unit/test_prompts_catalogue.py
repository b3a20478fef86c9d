"""Scenarios, styles and backdrops are files: the built-in ones are complete, the user's override, errors say where."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from doctor_image_gen.recipes import find_recipe
from shared.contracts.errors import InvalidInput
from shared.prompts.catalogue import BACKDROP_LIMIT_BYTES, load_catalogue

SCENARIOS = {
    "consultant": "consulting_room",
    "speaker": "conference_stage",
    "candid_walk": "hospital_corridor",
    "desk_shot": "executive_office",
    "examination": "examination_room",
    "team_meeting": "meeting_room",
    "lab_coat_portrait": "studio",
    "outdoor_professional": "campus",
    "research": "laboratory",
    "telehealth": "telehealth_desk",
    "surgery_prep": "scrub_room",
    "compassionate_care": "ward",
}
BUILT_IN = load_catalogue()
ROUND = "name: Ward Round\nprompt: '{subject} on the round, {photography_keywords}'\nfocus: calm\n"


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def refusal(folder: Path) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        load_catalogue(folder)
    return caught.value


def test_the_twelve_scenarios_stand_before_their_backdrops() -> None:
    assert {key: scenario.backdrop for key, scenario in BUILT_IN.scenarios.items()} == SCENARIOS
    assert BUILT_IN.scenario("consultant").name == "Medical Consultation"


def test_every_scenario_is_told_in_full() -> None:
    for scenario in BUILT_IN.scenarios.values():
        assert scenario.description
        assert scenario.focus
        assert scenario.attire
        assert scenario.prompt.startswith("{subject} ")
        assert scenario.prompt.endswith(", {photography_keywords}")


@pytest.mark.parametrize(
    ("key", "focus"),
    [
        ("consultant", "warmth, interaction"),
        ("speaker", "authority, expertise"),
        ("candid_walk", "dynamic, energetic"),
        ("desk_shot", "professional, focused"),
        ("examination", "care, expertise"),
        ("team_meeting", "collaboration"),
        ("lab_coat_portrait", "confidence"),
        ("outdoor_professional", "approachable"),
        ("research", "innovation"),
        ("telehealth", "modern"),
        ("surgery_prep", "precision"),
        ("compassionate_care", "empathy"),
    ],
)
def test_each_scenario_has_its_focus(key: str, focus: str) -> None:
    assert BUILT_IN.scenario(key).focus == focus


def test_there_are_at_least_eight_styles_with_light_camera_and_manner() -> None:
    assert len(BUILT_IN.styles) >= 8
    assert "cinematic" in BUILT_IN.styles
    for style in BUILT_IN.styles.values():
        assert style.light
        assert style.camera
        assert style.manner
        assert style.negatives


def test_the_house_keywords_are_those_of_the_house_style() -> None:
    house = BUILT_IN.house
    assert "soft studio lighting" in house.light
    assert house.camera == ("shot on Sony A7R IV", "85mm f/1.8")
    assert house.manner == ("medical lifestyle photography", "candid moment")
    assert "golden hour" in BUILT_IN.style("golden_hour").light


def test_an_unknown_scenario_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(InvalidInput) as caught:
        BUILT_IN.scenario("Consultent")
    assert str(caught.value) == (
        "scenario: 'Consultent' is not known. Did you mean consultant? "
        "`doctorgen scenarios` lists the scenarios and styles."
    )


def test_an_unknown_style_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(InvalidInput) as caught:
        BUILT_IN.style("cinema")
    assert caught.value.field == "photography_style"
    assert caught.value.found == "'cinema' is not known"
    assert caught.value.mend.startswith("Did you mean cinematic")


def test_a_name_near_to_none_is_answered_with_all_names() -> None:
    with pytest.raises(InvalidInput) as caught:
        BUILT_IN.scenario("zzzz")
    assert all(key in caught.value.mend for key in SCENARIOS)


@given(st.text(max_size=5000))
def test_any_unknown_name_is_refused_in_a_short_message(name: str) -> None:
    assume(name not in BUILT_IN.scenarios)
    with pytest.raises(InvalidInput) as caught:
        BUILT_IN.scenario(name)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["../scenarios/consultant", "/etc/passwd", "consultant.yaml", ""])
def test_a_name_is_never_taken_for_a_path(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not known"):
        BUILT_IN.scenario(name)


def test_a_users_folder_adds_a_scenario_a_style_and_a_backdrop(tmp_path: Path) -> None:
    write(tmp_path, "scenarios/ward_round.yaml", ROUND + "style: noir\nbackdrop: night_ward\n")
    write(tmp_path, "styles/noir.yaml", "name: Noir\nlight: [hard side light]\n")
    write(tmp_path, "backdrops/night_ward.yaml", "shell: {depth: 9.0}\n")
    catalogue = load_catalogue(tmp_path)
    assert set(catalogue.scenarios) == {*SCENARIOS, "ward_round"}
    assert catalogue.scenario("ward_round").style == "noir"
    assert catalogue.backdrops["night_ward"].shell.depth == 9.0


def test_a_users_file_overrides_a_built_in_one_of_the_same_name(tmp_path: Path) -> None:
    write(tmp_path, "scenarios/consultant.yaml", ROUND)
    write(tmp_path, "backdrops/ward.yaml", "shell: {depth: 3.0}\n")
    catalogue = load_catalogue(tmp_path)
    assert catalogue.scenario("consultant").name == "Ward Round"
    assert catalogue.backdrops["ward"].shell.depth == 3.0
    assert set(catalogue.scenarios) == set(SCENARIOS)


def test_a_user_may_have_a_house_style_of_their_own(tmp_path: Path) -> None:
    built_in = (Path(load_catalogue.__code__.co_filename).parent / "house.yaml").read_text("utf-8")
    write(tmp_path, "house.yaml", built_in.replace("85mm f/1.8", "a pinhole"))
    assert load_catalogue(tmp_path).house.camera == ("shot on Sony A7R IV", "a pinhole")


def test_the_examples_in_the_docs_hold(tmp_path: Path) -> None:
    docs = (Path(__file__).parents[2] / "docs/scenarios.md").read_text("utf-8")
    scenario, style, recipe = re.findall(r"```yaml\n(.*?)```", docs, re.DOTALL)
    write(tmp_path, "scenarios/dental_surgery.yaml", scenario)
    write(tmp_path, "styles/noir.yaml", style)
    write(tmp_path, "backdrops/plain.yaml", "shell: {kind: studio}")
    catalogue = load_catalogue(tmp_path)
    assert catalogue.scenario("dental_surgery").people == ("a patient in the chair",)
    assert catalogue.style("noir").name == "Noir"
    name = yaml.safe_load(recipe)["name"]
    write(tmp_path, f"recipes/{name}.yaml", recipe)
    assert find_recipe(tmp_path, name).steps


def test_fifty_scenarios_of_ones_own_are_taken(tmp_path: Path) -> None:
    for number in range(50):
        write(tmp_path, f"scenarios/speciality_{number}.yaml", ROUND)
    assert len(load_catalogue(tmp_path).scenarios) == 62


@pytest.mark.parametrize(
    ("text", "field", "found", "mend"),
    [
        (ROUND + "framing: {face_width: 0.4}\n", "framing.face_width", "less than or equal to 0.25, found 0.4", "docs"),
        (ROUND + "focuss: warm\n", "focuss", "there is no such field", "Did you mean focus?"),
        (ROUND.replace("focus: calm", ""), "focus", "Field required", "docs/scenarios.md"),
        (ROUND.replace(", {photography_keywords}", ""), "prompt", "must hold {photography_keywords}", "docs"),
        (ROUND.replace("{subject}", "{doctor}"), "prompt", "it may hold {photography_keywords}, {subject}", "docs"),
        (ROUND.replace("the round", "the {round"), "prompt", "a brace that belongs to no placeholder", "docs"),
        (ROUND.replace("Ward Round", "''"), "name", "at least 1 character", "docs"),
        (ROUND + "style: cinemtic\n", "style", "'cinemtic' is not known", "Did you mean cinematic"),
        (ROUND + "backdrop: studdio\n", "backdrop", "'studdio' is not known", "Did you mean studio?"),
        (ROUND + "people: a patient\n", "people", "valid array", "docs"),
        (ROUND + "identity_weight: 7\n", "identity_weight", "less than or equal to 1", "docs"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, text: str, field: str, found: str, mend: str) -> None:
    write(tmp_path, "scenarios/mine.yaml", text)
    error = refusal(tmp_path)
    assert error.field == f"scenarios/mine.yaml: {field}"
    assert found in error.found
    assert mend in error.mend


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("scenarios/mine.yaml", "name: [\n", "cannot be read as YAML"),
        ("scenarios/mine.yaml", "- a\n- b\n", "it is not a list of `field: value` lines"),
        ("scenarios/mine.yaml", "", "it is not a list of `field: value` lines"),
        ("scenarios/mine.yaml", "a: &a [*a]\n", "cannot be written as JSON"),
        ("scenarios/mine.yaml", "name: !!python/name:os.system\n", "cannot be read as YAML"),
        ("styles/mine.yaml", "{1: 2}: x\n", "cannot be read as YAML"),
        ("backdrops/mine.yaml", "2026-01-01: x\n", "cannot be written as JSON"),
        ("house.yaml", "light", "it is not a list of `field: value` lines"),
    ],
)
def test_a_file_that_is_no_yaml_of_ours_is_named(tmp_path: Path, name: str, text: str, found: str) -> None:
    write(tmp_path, name, text)
    error = refusal(tmp_path)
    assert error.field == name
    assert found in error.found


def test_a_syntax_error_tells_the_line(tmp_path: Path) -> None:
    write(tmp_path, "scenarios/mine.yaml", "name: Mine\nfocus: [warm\nprompt: x\n")
    error = refusal(tmp_path)
    assert "line 3" in error.found
    assert str(tmp_path) not in error.found


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    write(tmp_path, "scenarios/mine.yaml", "")
    (tmp_path / "scenarios/mine.yaml").write_bytes(b"name: \xff\xfe")
    assert refusal(tmp_path).field == "scenarios/mine.yaml"


def test_a_file_name_that_cannot_be_a_key_is_named(tmp_path: Path) -> None:
    write(tmp_path, "scenarios/Ward Round.yaml", ROUND)
    assert refusal(tmp_path).field == "scenarios/Ward Round.yaml: key"


def test_a_wrong_backdrop_is_named_with_its_field(tmp_path: Path) -> None:
    write(tmp_path, "backdrops/mine.yaml", "light: {kelvin: 100}\n")
    assert refusal(tmp_path).field == "backdrops/mine.yaml: light.kelvin"


def test_a_backdrop_too_large_for_a_message_is_refused(tmp_path: Path) -> None:
    lamp = (
        "  - {kind: lamp, at: [1.25, 2.125, 3.625], size: [0.123, 0.456], colours: ['#aabbcc', '#ddeeff'], emit: 3.5}\n"
    )
    write(tmp_path, "backdrops/mine.yaml", "elements:\n" + lamp * 60)
    error = refusal(tmp_path)
    assert error.field == "backdrops/mine.yaml"
    assert "bytes in a message" in error.found
    assert f"{BACKDROP_LIMIT_BYTES:,}" in error.mend


@pytest.mark.parametrize("linked", ["scenarios/mine.yaml", "scenarios", "house.yaml"])
def test_a_link_that_leads_outside_the_folder_is_refused(tmp_path: Path, linked: str) -> None:
    write(tmp_path, "outside/mine.yaml", ROUND)
    folder = tmp_path / "prompts"
    (folder / linked).parent.mkdir(parents=True, exist_ok=True)
    target = tmp_path / ("outside" if linked == "scenarios" else "outside/mine.yaml")
    (folder / linked).symlink_to(target)
    assert refusal(folder).found == "the file leads outside the prompt folder"


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    """Kubernetes mounts a config map so."""
    write(tmp_path, "..2026/scenarios/mine.yaml", ROUND)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "scenarios").symlink_to("..data/scenarios")
    assert "mine" in load_catalogue(tmp_path).scenarios


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere")
    assert error.field == "prompts"
    assert "there is no folder" in error.found
