"""The portable engine: MediaPipe finds and measures, dlib describes."""

from collections.abc import Mapping

from pydantic import JsonValue

from services.identity.choose import choose_face
from services.identity.fuse import fuse
from services.identity.measure import looks_of, measure, refuse_unusable
from services.identity.stage import EncodeParams
from shared.contracts.identity import FaceMeasure, IdentityRecord
from shared.vision.align import aligned_crop
from shared.vision.codec import Image, decode
from shared.vision.embedding import FaceEncoder
from shared.vision.faces import Face, FaceFinder
from shared.vision.output import image_output
from shared.vision.picks import picks_of
from shared.vision.prominent import prominent
from shared.worker.operation import Outcome, Output, Work

_FACE_CROP_PX = 512


class PortableEncoder:
    """identity.encode on the CPU: finds, checks, aligns and describes the face of each photo, and fuses them."""

    def __init__(self) -> None:
        self._finder = FaceFinder()
        self._encoder = FaceEncoder()

    def models(self, _: EncodeParams) -> Mapping[str, str]:
        return {**self._finder.models, **self._encoder.models}

    def run(self, work: Work[EncodeParams]) -> Outcome:
        """Outputs `identity` (an IdentityRecord) and `face` (the best photo's face, upright, 512 x 512, PNG).

        Raises:
            InvalidInput: a photo cannot be used, or the photos show different people.
        """
        photos = work.inputs["photos"]
        picks = picks_of(work.params.faces, len(photos), "the photo shows one person only")
        images: list[Image] = []
        found: list[Face] = []
        faces: list[FaceMeasure] = []
        for index, (photo, pick) in enumerate(zip(photos, picks, strict=True)):
            image = decode(photo)
            seen, least = self._finder.find(image), work.params.background_face_ratio
            face = choose_face(seen, pick, least, image.shape[1], index + 1)
            others = [other for other in prominent(seen, least) if other is not face]
            measured = measure(image, face, others, self._encoder.encode(image, face), index)
            refuse_unusable(index + 1, looks_of(measured), work.params)
            images.append(image)
            found.append(face)
            faces.append(measured)
            work.progress((index + 1) / len(photos))
        record = fuse(faces, work.params.max_distance)
        crop = aligned_crop(images[record.best], found[record.best], _FACE_CROP_PX)
        return Outcome(
            outputs={
                "identity": Output(record.to_json(), "application/json", "identity"),
                "face": image_output(crop, "identity"),
            },
            facts=_facts(record),
        )


def _facts(record: IdentityRecord) -> dict[str, JsonValue]:
    """What the manifest says: no descriptor, photos counted from 1 as the caller counts them."""
    return {
        "encoder": record.encoder,
        "best_photo": record.faces[record.best].photo + 1,
        "faces": [
            {
                "photo": face.photo + 1,
                "width_px": round(face.box[2], 1),
                "yaw_deg": round(face.yaw, 1),
                "pitch_deg": round(face.pitch, 1),
                "roll_deg": round(face.roll, 1),
                "sharpness": round(face.sharpness, 1),
                "exposure": round(face.exposure, 1),
                "quality": round(face.quality, 3),
            }
            for face in record.faces
        ],
    }
