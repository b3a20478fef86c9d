"""Reading and writing pictures."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PillowImage

from shared.contracts.errors import InvalidInput
from shared.vision.codec import Image, decode, encode_png
from shared.vision.output import image_output
from tests.photos import astronaut, jpeg

PICTURES = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda size: arrays(np.uint8, (*size, 3)))


@settings(max_examples=50, deadline=None)
@given(PICTURES)
def test_png_loses_nothing(picture: Image) -> None:
    """Any picture is read back exactly as it was written."""
    assert np.array_equal(decode(encode_png(picture)), picture)


def test_png_is_read_alike_by_another_library() -> None:
    """Channels are in the order that the PNG standard says, not in OpenCV's."""
    with PillowImage.open(io.BytesIO(encode_png(astronaut()))) as read:
        assert read.format == "PNG"
        assert np.array_equal(np.asarray(read), astronaut())


def test_a_picture_always_gives_the_same_bytes() -> None:
    assert encode_png(astronaut()) == encode_png(astronaut().copy())


def test_jpeg_is_read_as_rgb() -> None:
    """A red picture stays red."""
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    read = decode(jpeg(red))
    assert read.dtype == np.uint8
    assert abs(int(read[8, 8, 0]) - 200) < 5
    assert int(read[8, 8, 2]) < 5


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_other_pixel_formats_become_rgb(mode: str) -> None:
    """Grey, alpha, palette and 16 bit pictures come out as uint8 with three channels."""
    buffer = io.BytesIO()
    PillowImage.new(mode, (20, 10)).save(buffer, "PNG")
    read = decode(buffer.getvalue())
    assert read.shape == (10, 20, 3)
    assert read.dtype == np.uint8


@pytest.mark.parametrize("data", [b"", b"no picture", encode_png(np.zeros((4, 4, 3), np.uint8))[:20]])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^image: \d+ bytes that are no readable picture\. Hand in"):
        decode(data)


def test_an_output_carries_its_type_and_kind() -> None:
    output = image_output(astronaut(), "intermediate")
    assert (output.media_type, output.kind) == ("image/png", "intermediate")
    assert np.array_equal(decode(output.data), astronaut())
