"""A picture as a step's output."""

from shared.contracts.artifacts import ArtifactKind
from shared.vision.codec import Image, encode_png
from shared.worker.operation import Output


def image_output(image: Image, kind: ArtifactKind) -> Output:
    """The picture (uint8 RGB) as a lossless PNG, to be stored as an artifact of that kind."""
    return Output(data=encode_png(image), media_type="image/png", kind=kind)
