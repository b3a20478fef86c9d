"""Folders of tiny networks that see faces and hands, as `doctorgen models tiny` makes them. They know nothing.

All see one face in the middle of whatever they are shown, or two hands below it.
"""

from pathlib import Path

from shared.vision.networks import tiny_esrgan, tiny_faces, tiny_restorer, tiny_swapper, tiny_yolo, tiny_yunet

HANDS = ((0.25, 0.8, 0.2, 0.2), (0.75, 0.8, 0.2, 0.2))
"""x and y of the middle, width and height, in shares of the picture's."""


def faces(folder: Path) -> None:
    """A detector of faces for the detailer."""
    tiny_yolo.write(folder / "tiny-faces.onnx")


def hands(folder: Path) -> None:
    """A detector of hands."""
    tiny_yolo.write(folder / "tiny-hands.onnx", HANDS)


def insight(folder: Path) -> None:
    """A pack with the files of buffalo_l that a face swap reads."""
    tiny_swapper.write_pack(folder, alike=tiny_faces.ALIKE)


def swapper(folder: Path) -> None:
    """A face swapper with the interface of inswapper_128."""
    tiny_swapper.write(folder)


def restorer(folder: Path) -> None:
    """A face restorer."""
    tiny_restorer.write(folder)


def esrgan(folder: Path) -> None:
    """An upscaler."""
    tiny_esrgan.write(folder)


def yunet(folder: Path) -> None:
    """The detector of the verdict."""
    tiny_yunet.write(folder / "tiny-yunet.onnx")


def arcface(folder: Path) -> None:
    """The recogniser of the verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_faces.write_recogniser(folder / "tiny-arcface.onnx", tiny_faces.ALIKE)
