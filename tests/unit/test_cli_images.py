"""`--image`: pictures beside the photos, as typed."""

import pytest

from doctor_image_gen.cli.parser import build_parser
from doctor_image_gen.cli.wishes import request_of
from shared.contracts.errors import InvalidInput


def images(*words: str, command: str = "generate") -> object:
    arguments = build_parser().parse_args([command, "--doctor-image", "me.png", "--scenario", "speaker", *words])
    return request_of(arguments).get("images")


@pytest.mark.parametrize("command", ["generate", "submit"])
def test_images_are_named_one_by_one_or_together(command: str) -> None:
    wanted = {"pose": "a=b.png", "style": "room.png"}
    assert images("--image", "pose=a=b.png", "--image", "style=room.png", command=command) == wanted
    assert images("--image", "pose=a=b.png", "style=room.png", command=command) == wanted
    assert images(command=command) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pose.png"], "--image: 'pose.png' is no NAME=VALUE. Write for instance --image name=value."),
        (["=pose.png"], "--image: '=pose.png' is no NAME=VALUE. Write for instance --image name=value."),
        (["pose="], "--image: 'pose=' names no file. Write for instance --image pose=standing.png."),
        (["pose=a.png", "pose=b.png"], "--image: 'pose' is given twice. Give each image once."),
    ],
)
def test_what_names_no_image_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        images("--image", *words)
    assert str(refused.value) == message
