"""Who the subject is, as the portable engines write it down, and where in the photos, as all do.

Biometric data: kept under the subject's prefix.
"""

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Contract

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

Embedding = Annotated[tuple[float, ...], Field(min_length=128, max_length=128)]
"""dlib's 128-d face descriptor. Judge by Euclidean distance; the vectors are not of unit length."""


class FacePlace(Contract):
    """Which face of a photo is the subject's. Pixels of the normalised photo."""

    photo: Annotated[int, Field(ge=0, description="index into the job's photos")]
    box: Box = Field(description="x, y, width, height in pixels")
    others: tuple[Box, ...] | None = Field(
        default=None, description="boxes of other people's faces, passers-by left out; absent where there are none"
    )


class FaceMeasure(FacePlace):
    """One photo's face: where it is and how good it is. Pixels of the normalised photo; degrees."""

    eyes: tuple[Point, Point] = Field(description="centres, the picture's left one first")
    yaw: float = Field(description="degrees, positive: turned to the picture's right")
    pitch: float = Field(description="degrees, positive: looking up")
    roll: float = Field(description="degrees, positive: clockwise in the picture")
    sharpness: float = Field(description="variance of the Laplacian over the aligned crop, grey levels squared")
    exposure: float = Field(description="mean grey level of the face, 0 to 255")
    quality: Annotated[float, Field(ge=0.0, le=1.0)] = Field(description="size, pose, sharpness, exposure in one")
    embedding: Embedding


class IdentityRecord(Contract):
    """The fused identity of one to five photos."""

    schema_version: Literal[1] = 1
    faces: Annotated[tuple[FaceMeasure, ...], Field(min_length=1, max_length=5)]
    best: Annotated[int, Field(ge=0, description="index into faces of the photo to build the picture from")]
    embedding: Embedding = Field(description="quality-weighted mean of the faces' embeddings")
    encoder: str
