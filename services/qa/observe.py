"""What the portable engine sees in a picture, before anyone judges it."""

from services.qa.observation import ANALYSED_PX, FACE_CROP_PX, FaceObserved, Observation, observation_of
from shared.contracts.identity import IdentityRecord
from shared.vision.align import aligned_crop
from shared.vision.boxes import shrunk
from shared.vision.codec import Image
from shared.vision.embedding import FaceEncoder, distance, likeness
from shared.vision.faces import Face, FaceFinder
from shared.vision.measures import sharpness


def observe(image: Image, subject: IdentityRecord, finder: FaceFinder, encoder: FaceEncoder) -> Observation:
    """Measure a picture (uint8 RGB), on a copy of at most 1024 pixels."""
    reduced, _ = shrunk(image, ANALYSED_PX)
    faces = tuple(_observe_face(reduced, face, subject, encoder) for face in finder.find(reduced))
    return observation_of(image, reduced, faces)


def _observe_face(image: Image, face: Face, subject: IdentityRecord, encoder: FaceEncoder) -> FaceObserved:
    descriptor = encoder.encode(image, face)
    apart = distance(descriptor, subject.embedding)
    nearest = min(distance(descriptor, photo.embedding) for photo in subject.faces)
    return FaceObserved(
        width_share=face.box[2] / image.shape[1],
        sharpness=sharpness(aligned_crop(image, face, FACE_CROP_PX)),
        distance=apart,
        likeness=likeness(apart),
        best_likeness=likeness(nearest),
    )
