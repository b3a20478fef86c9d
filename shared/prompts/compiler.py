"""Join scenario, style, what is known of the doctor and the caller's words into a positive and a negative prompt."""

import unicodedata
from collections.abc import Iterable

from shared.contracts.brief import PROMPT_LIMIT_CHARACTERS, Brief
from shared.contracts.errors import InvalidInput
from shared.contracts.request import SubjectAttributes
from shared.prompts.catalogue import Catalogue
from shared.prompts.models import KEYWORDS, PEOPLE, PLACEHOLDER, SUBJECT, House, Scenario, Style

CUSTOM_PROMPT_LIMIT_CHARACTERS = 1000


def compile_brief(
    catalogue: Catalogue, scenario: str, style: str | None, attributes: SubjectAttributes, custom_prompt: str
) -> Brief:
    """Compile what the engines are told. The same arguments give the same brief.

    The prompt goes: the doctor, the scene and action, appearance and attire, the caller's words, who stands behind
    (after all that is said of the doctor, lest it be read as said of the others), then light, camera and manner.
    The caller's words are taken literally, braces included.

    Args:
        catalogue: what there is to choose from.
        scenario: key of a scenario.
        style: key of a photography style; None takes the scenario's own.
        attributes: what the prompt may say of the person.
        custom_prompt: the caller's own words, at most 1000 characters.

    Raises:
        InvalidInput: unknown scenario or style; words too long for the prompt.
    """
    words = _tidy(custom_prompt)
    if len(words) > CUSTOM_PROMPT_LIMIT_CHARACTERS:
        raise InvalidInput(
            "custom_prompt",
            f"it is {len(words):,} characters long",
            f"Shorten it to at most {CUSTOM_PROMPT_LIMIT_CHARACTERS:,}.",
        )
    scene = catalogue.scenario(scenario)
    manner = catalogue.style(style if style is not None else scene.style)
    house = catalogue.house
    return Brief(
        scenario=scene.key,
        scenario_name=scene.name,
        style=manner.key,
        prompt=_prompt(house, scene, manner, attributes, words),
        negative_prompt=_negative_prompt(house, scene, manner),
        focus=scene.focus,
        framing=scene.framing,
        backdrop=catalogue.backdrops[scene.backdrop],
        people=scene.people,
        identity_weight=_identity_weight(house, scene),
    )


def _prompt(house: House, scene: Scenario, style: Style, attributes: SubjectAttributes, words: str) -> str:
    attire = _tidy(attributes.attire or scene.attire)
    details = [
        _tidy(attributes.appearance or ""),
        f"wearing {attire}" if attire else "",
        words,
        _fill(house.hierarchy, {PEOPLE: " and ".join(scene.people)}) if scene.people else "",
        *(style.light or house.light),
        *(style.camera or house.camera),
        *(style.manner or house.manner),
        *house.always,
    ]
    values = {SUBJECT: _subject(attributes), KEYWORDS: ", ".join(_without_repeats(details))}
    template = scene.prompt if f"{{{SUBJECT}}}" in scene.prompt else f"{{{SUBJECT}}}, {scene.prompt}"
    prompt = _fill(template, values)
    excess = len(prompt) - PROMPT_LIMIT_CHARACTERS
    if excess > 0:
        raise InvalidInput(
            "custom_prompt",
            f"with {len(words):,} characters of it the prompt has {len(prompt):,}, over {PROMPT_LIMIT_CHARACTERS:,}",
            f"Shorten it, or the subject's attributes, by {excess:,} characters.",
        )
    return prompt


def _negative_prompt(house: House, scene: Scenario, style: Style) -> str:
    groups = house.negatives
    return ", ".join(
        _without_repeats(
            (*groups.anatomy, *groups.artefacts, *groups.unphotographic, *style.negatives, *scene.negatives)
        )
    )


def _identity_weight(house: House, scene: Scenario) -> float | None:
    if scene.identity_weight is not None:
        return scene.identity_weight
    return house.shared_scene_identity_weight if scene.people else None


def _subject(attributes: SubjectAttributes) -> str:
    """The doctor in a few words: 'An 84-year-old male doctor (cardiology)'."""
    words = [f"{attributes.age}-year-old" if attributes.age else "", _tidy(attributes.gender or ""), "doctor"]
    speciality = _tidy(attributes.speciality or "")
    phrase = " ".join(word for word in words if word) + (f" ({speciality})" if speciality else "")
    vowel = phrase[0].lower() in "aeiou" or phrase.startswith(("8", "18-"))
    return f"{'An' if vowel else 'A'} {phrase}"


def _fill(template: str, values: dict[str, str]) -> str:
    """Fill in all placeholders in one pass, so that a value's own braces stay as they are."""
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _tidy(text: str) -> str:
    """One line, single spaces, no control characters or half surrogate pairs."""
    printable = (" " if unicodedata.category(character) in {"Cc", "Cs"} else character for character in text)
    return " ".join("".join(printable).split())


def _without_repeats(parts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(part for part in parts if part))
