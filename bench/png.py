"""What it costs to write a picture losslessly: time and size, by setting.

python -m bench.png
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter

import cv2
import numpy as np

from shared.vision.codec import Image, decode, encode_png
from tests.photos import astronaut

_SETTINGS = {
    "default strategy": (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
    "filtered strategy": (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED),
    "run length strategy": (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    "fixed strategy": (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FIXED),
    "level 0, all filters": (cv2.IMWRITE_PNG_COMPRESSION, 0),
    "level 1, all filters": (cv2.IMWRITE_PNG_COMPRESSION, 1),
    "level 3, all filters": (cv2.IMWRITE_PNG_COMPRESSION, 3),
}


def photograph(side_px: int, grain: float) -> Image:
    """The astronaut enlarged, with photographic grain of that standard deviation."""
    enlarged = cv2.resize(astronaut(), (side_px, side_px), interpolation=cv2.INTER_LANCZOS4)
    noise = np.random.Generator(np.random.PCG64(1)).normal(0.0, grain, (side_px, side_px, 1))
    return np.asarray(np.clip(enlarged + noise, 0, 255).round(), np.uint8)


def by_opencv(settings: tuple[int, int], image: Image) -> bytes:
    """The picture through OpenCV."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def report(name: str, image: Image, write: Callable[[Image], bytes]) -> None:
    """One line: the shortest of three runs and the size, after checking that nothing is lost."""
    data = write(image)
    assert np.array_equal(decode(data), image)
    seconds = []
    for _ in range(3):
        start = perf_counter()
        write(image)
        seconds.append(perf_counter() - start)
    print(f"  {name:24s} {1000 * min(seconds):6.0f} ms  {len(data) / 1e6:6.2f} MB")


def main() -> None:
    for side_px, grain in ((1024, 2.0), (4096, 1.0), (4096, 2.0), (4096, 4.0)):
        image = photograph(side_px, grain)
        print(f"{side_px} x {side_px}, grain {grain}: {image.nbytes / 1e6:.1f} MB raw")
        report("encode_png (Huffman only)", image, encode_png)
        for name, settings in _SETTINGS.items():
            report(name, image, partial(by_opencv, settings))


if __name__ == "__main__":
    main()
