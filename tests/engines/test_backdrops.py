"""The twelve scenes load, stay small, and are painted: distinct, defocused, by the seed and by nothing else."""

from itertools import combinations
from typing import get_args

import cv2
import numpy as np
import pytest

from services.generate.colour import LUMA, to_srgb
from services.generate.paint import Scene, paint
from shared.contracts.errors import InvalidInput
from shared.contracts.scene import Backdrop, Element, ElementKind, Finish, Light, Shell
from shared.prompts.catalogue import load_catalogue

NAMES = [
    *("consulting_room", "conference_stage", "hospital_corridor", "executive_office", "examination_room"),
    *("meeting_room", "studio", "campus", "laboratory", "telehealth_desk", "scrub_room", "ward"),
]
BACKDROPS = load_catalogue().backdrops


def shown(scene: Scene) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return to_srgb(scene.behind)


@pytest.fixture(scope="module")
def painted() -> dict[str, Scene]:
    return {name: paint(BACKDROPS[name], 512, 512, seed=1) for name in NAMES}


def test_all_twelve_are_there() -> None:
    assert set(NAMES) <= set(BACKDROPS)


@pytest.mark.parametrize("name", NAMES)
def test_description_survives_the_wire_and_is_small(name: str) -> None:
    data = BACKDROPS[name].to_json()
    assert Backdrop.from_json(data) == BACKDROPS[name]
    assert len(data) < 3000


@pytest.mark.parametrize("name", NAMES)
def test_scene_is_neither_black_nor_blown_out(name: str, painted: dict[str, Scene]) -> None:
    levels = shown(painted[name]) @ LUMA
    assert 40 < levels.mean() < 215
    assert levels.std() > 8
    assert (levels > 253).mean() < 0.2


@pytest.mark.parametrize("name", NAMES)
def test_scene_is_defocused(name: str, painted: dict[str, Scene]) -> None:
    """Nothing changes from one pixel to the next faster than a disc of several pixels allows."""
    levels = shown(painted[name]) @ LUMA
    assert np.abs(cv2.Laplacian(levels.astype(np.float32), cv2.CV_32F)).mean() < 1.5


def test_every_two_scenes_differ(painted: dict[str, Scene]) -> None:
    for first, second in combinations(NAMES, 2):
        difference = np.abs(shown(painted[first]) - shown(painted[second])).mean()
        assert difference > 12, (first, second)


def test_same_seed_same_scene_and_another_seed_another(painted: dict[str, Scene]) -> None:
    again, other = (paint(BACKDROPS["laboratory"], 512, 512, seed) for seed in (1, 2))
    assert np.array_equal(again.behind, painted["laboratory"].behind)
    assert np.abs(shown(other) - shown(again)).mean() > 1


def test_a_point_of_light_becomes_a_disc() -> None:
    """Even in brightness inside, with a definite edge: no Gaussian."""
    dark = Shell(kind="studio", back="#000000", ceiling="#000000", depth=20.0)
    lamp = Element(kind="lamp", at=(0.0, 1.45, 15.0), size=(0.1, 0.1), emit=30.0)
    scene = paint(Backdrop(shell=dark, finish=Finish(bloom=0.0, haze=0.0), elements=(lamp,)), 512, 512, seed=3)
    row_of_peak, _ = np.unravel_index(int((scene.behind @ LUMA).argmax()), (512, 512))
    profile = (scene.behind @ LUMA)[row_of_peak]
    bright, faint = (profile > 0.7 * profile.max()).sum(), (profile > 0.1 * profile.max()).sum()
    assert bright > 8
    assert bright > 0.7 * faint


def test_what_stands_before_the_focus_lies_in_front() -> None:
    near = Element(kind="panel", at=(0.0, 1.2, 0.9), size=(0.1, 0.1))
    scene = paint(Backdrop(elements=(near,)), 512, 512, seed=1)
    assert scene.front[..., 3].max() > 0.2
    assert paint(Backdrop(), 512, 512, seed=1).front[..., 3].max() == 0


def test_warm_light_paints_a_warmer_scene() -> None:
    warm, cold = (
        paint(Backdrop(light=Light(kelvin=kelvin, ambient_kelvin=kelvin)), 512, 512, seed=1).behind.mean(axis=(0, 1))
        for kelvin in (3000.0, 9000.0)
    )
    assert warm[0] / warm[2] > 1.5 * cold[0] / cold[2]


@pytest.mark.parametrize("kind", get_args(ElementKind))
def test_every_kind_of_element_shows(kind: str) -> None:
    """What a YAML file may name is painted."""
    wall = Shell(kind="studio", back="#000000", ceiling="#000000", depth=20.0)
    element = Element.from_json(f'{{"kind": "{kind}", "at": [0, 0.9, 5], "size": [1.2, 1.2], "emit": 1}}')
    scene = paint(Backdrop(shell=wall, elements=(element,)), 512, 512, seed=1)
    assert (scene.behind.max(axis=2) > 0.02).mean() > 0.01


@pytest.mark.parametrize(("width", "height"), [(512, 768), (2048, 512), (1024, 1024)])
def test_any_size_is_filled(width: int, height: int) -> None:
    scene = paint(BACKDROPS["hospital_corridor"], width, height, seed=1)
    assert scene.behind.shape == (height, width, 3)
    assert np.isfinite(scene.behind).all()
    assert scene.behind[-1].mean() > 0.02


@pytest.mark.parametrize(
    ("yaml", "field"),
    [
        ('{"elements": [{"kind": "unicorn", "at": [0, 0, 5], "size": [1, 1]}]}', "elements.0.kind"),
        ('{"elements": [{"kind": "lamp", "at": [0, 0, 5], "size": [0, 1]}]}', "elements.0.size.0"),
        ('{"light": {"kelvin": 100}}', "light.kelvin"),
        ('{"shell": {"wall": "red"}}', "shell.wall"),
        ('{"colour": "#ffffff"}', "colour"),
    ],
)
def test_a_wrong_description_is_refused_by_field(yaml: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Backdrop.from_json(yaml)
    assert refused.value.field == field
