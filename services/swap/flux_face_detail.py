"""The GPU engine of faces: a YOLO detector finds them, FLUX paints each anew, held to the subject by PuLID."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from services.swap.detailer.engine import Detailer, Who
from services.swap.detailer.segments import Found
from services.swap.detailer.whose import consensus, similarity
from services.swap.stage import FluxFaceDetailParams
from shared.contracts.errors import InvalidInput
from shared.flux.parts import proper_name
from shared.flux.studio import Studio, studio_of
from shared.flux.told import identity_in
from shared.vision.codec import Image
from shared.vision.networks.antelope import locate
from shared.vision.networks.insight import ANTELOPEV2
from shared.vision.networks.packs import Packed
from shared.worker.operation import Outcome, Work

UNTOLD, ANOTHER = "identity_untold", "another_person"
"""Why a face is left alone: nobody can tell whose it is, or it is somebody else's."""


class FluxFaceDetail:
    """swap.face_detail by FaceDetailer's algorithm. The argument is `services.swap.detailer.engine.Detailer`'s."""

    def __init__(self, studio: Studio | None = None) -> None:
        self._studio = studio or studio_of()
        self._detailer = Detailer(self._studio)

    def models(self, params: FluxFaceDetailParams) -> Mapping[str, str]:
        """As `Detailer.models`, with PuLID's weights, and the encoder where faces are told apart."""
        encoder = [params.encoder] if params.whose == "subject" else []
        return self._detailer.models(params, [params.identity_model, *encoder])

    def resident_keys(self, params: FluxFaceDetailParams) -> AbstractSet[str]:
        """The transformer, whoever is to be seen, the detector, and the encoder where faces are told apart."""
        keys = self._detailer.resident_keys(params)
        return keys | self._encoder(params).keys(self._studio.device) if params.whose == "subject" else keys

    def run(self, work: Work[FluxFaceDetailParams]) -> Outcome:
        """Output `image`: the picture with its faces painted anew; as it came where there are none to be painted.

        Raises:
            InvalidInput: the identity is a portable engine's, was encoded for another PuLID, or is missing where
                `whose` asks for it; or as `Detailer.run`.
            Permanent, ResourceExhausted: as `Detailer.run`.
        """
        who = _who(work)
        if work.params.whose == "all":
            return self._detailer.run(work, "faces", who)
        if who is None:
            raise InvalidInput(
                "whose", "it is 'subject', and the step is given no identity", "Give it one, or say 'all'."
            )
        subject = who.identity.arcface.float().numpy()

        def judge(image: Image, found: Sequence[Found]) -> list[tuple[str, Mapping[str, JsonValue]]]:
            return self._judged(image, found, subject, work.params)

        return self._detailer.run(work, "faces", who, judge)

    def _judged(
        self, image: Image, found: Sequence[Found], subject: NDArray[np.float32], params: FluxFaceDetailParams
    ) -> list[tuple[str, Mapping[str, JsonValue]]]:
        """For each face why it is left alone, or empty, and how alike it is to the subject's. The encoder is lent."""
        direction = consensus(subject)
        if direction is None or not found:
            return [(UNTOLD, {})] * len(found)
        with self._encoder(params).borrowed(self._studio.device, self._studio.residency) as faces:
            cosines = [similarity(faces, image, one.box, direction) for one in found]
        return [_verdict(cosine, params.min_similarity) for cosine in cosines]

    def _encoder(self, params: FluxFaceDetailParams) -> Packed:
        return Packed(ANTELOPEV2, locate(self._studio.folder / proper_name(params.encoder)), attributes=False)


def _who(work: Work[FluxFaceDetailParams]) -> Who | None:
    """Whom faces are held to; nobody where the step is given no identity."""
    params, blob = work.params, work.perhaps("identity")
    if blob is None:
        return None
    identity = identity_in(blob, "identity", params.identity_model)
    if identity is None:
        raise InvalidInput("identity", "a portable engine made it, and FLUX cannot read it", "Encode it with 'flux'.")
    return Who(identity, params.identity_model, params.identity_weight, params.identity_start_step)


def _verdict(cosine: float | None, least: float) -> tuple[str, Mapping[str, JsonValue]]:
    if cosine is None:
        return UNTOLD, {}
    return "" if cosine >= least else ANOTHER, {"similarity": round(cosine, 3)}
