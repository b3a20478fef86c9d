"""Real photos for the tests, all from packages that are installed anyway, and the changes the tests make to them."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage

from shared.vision.codec import Image, encode_png


@cache
def _carried(package: str, path: str) -> Image:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    with PillowImage.open(Path(spec.origin).parent / path) as picture:
        return np.asarray(picture.convert("RGB"), np.uint8)


def astronaut() -> Image:
    """Eileen Collins, 512 x 512, one face, 93 pixels wide (NASA, public domain; carried by scikit-image)."""
    return _carried("skimage", "data/astronaut.png").copy()


def hopper() -> Image:
    """Grace Hopper, 512 x 600, one face, 191 pixels wide (US Navy, public domain; carried by matplotlib)."""
    return _carried("matplotlib", "mpl-data/sample_data/grace_hopper.jpg").copy()


def cameraman() -> Image:
    """A man seen from the side, his face turned to the picture's right, 512 x 512, grey (carried by scikit-image)."""
    return _carried("skimage", "data/camera.png").copy()


def coffee() -> Image:
    """A cup on a table, nobody in sight, 600 x 400 (carried by scikit-image)."""
    return _carried("skimage", "data/coffee.png").copy()


def png(image: Image) -> bytes:
    """The picture as PNG."""
    return encode_png(image)


def jpeg(image: Image, quality: int = 92) -> bytes:
    """The picture as JPEG."""
    _, buffer = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return buffer.tobytes()


def scaled(image: Image, factor: float) -> Image:
    """The picture smaller or larger."""
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=interpolation), np.uint8)


def lit(image: Image, factor: float, lift: float = 0.0) -> Image:
    """The picture with every level multiplied, then raised."""
    return np.clip(image * factor + lift, 0, 255).astype(np.uint8)


def blurred(image: Image, sigma_px: float) -> Image:
    """The picture out of focus."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


def turned(image: Image, degrees: float) -> Image:
    """The picture turned clockwise about its middle."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


def mirrored(image: Image) -> Image:
    """The picture with left and right exchanged."""
    return np.ascontiguousarray(image[:, ::-1])


def side_by_side(*images: Image) -> Image:
    """One picture of several, cut to the lowest."""
    height = min(image.shape[0] for image in images)
    return np.ascontiguousarray(np.hstack([image[:height] for image in images]))


def inset(background: Image, image: Image, x: int, y: int) -> Image:
    """A picture laid onto another."""
    joined = background.copy()
    joined[y : y + image.shape[0], x : x + image.shape[1]] = image
    return joined
