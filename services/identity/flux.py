"""The GPU engine: what antelopev2 and EVA02-CLIP see in the photos becomes PuLID's identity tokens.

Source: PuLID for FLUX (Guo et al. 2024), `get_id_embedding` in pulid/pipeline_flux.py. One thing differs: the crop is
aligned by antelopev2's own key points and not by those of a second detector, which may find another face.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from services.identity import strangers
from services.identity.five_points import detail, head_pose, level
from services.identity.measure import Looks, quality, refuse_unusable
from services.identity.networks import Encoders, Place, borrowed, keys_of, place_of
from services.identity.stage import FluxEncodeParams
from shared.contracts.errors import InvalidInput
from shared.contracts.identity import FacePlace
from shared.flux.pulid.artifact import PulidAbout, PulidIdentity, save_identity
from shared.flux.pulid.eva import identity_condition, prepare
from shared.flux.pulid.fusion import Fusion, fuse
from shared.models.device import require_device, torch_facts, wanted_device
from shared.models.process import residency as of_process
from shared.models.residency import Residency
from shared.models.settings import models_folder
from shared.models.shelf import Shelf
from shared.vision.boxes import Box, coincide, shrunk
from shared.vision.codec import Image, decode
from shared.vision.networks.antelope import AntelopeFace
from shared.vision.networks.crop512 import crop512
from shared.vision.networks.insight import distinct
from shared.vision.networks.parsing import grey_on_white, parse
from shared.vision.output import image_output
from shared.vision.picks import picks_of
from shared.vision.prominent import picked, prominent
from shared.worker.operation import Outcome, Output, Work

MEDIA_TYPE = "application/octet-stream"
"""Of the identity: the store knows no more exact one for safetensors."""

LONGEST_PX = 1024
"""Larger photos are reduced first, as for PuLID's training."""

_FRONTAL = "Use a photo in which the face is seen from the front, whole, lit and in focus."


@dataclass(frozen=True, eq=False)
class Seen:
    """What one photo says of its subject."""

    face: AntelopeFace
    crop: Image
    looks: Looks
    """Measured in the photo as it was handed in, but for the exposure."""
    quality: float
    tokens: Tensor
    """[32, 2048]."""
    place: FacePlace


class FluxEncoder:
    """identity.encode with PuLID's encoders. Borrows them of the process's Residency. One step at a time.

    Args:
        folder: of the models; the setting `models_dir` where None.
        device: where all four networks compute; as the environment says where None.
        residency: where they are borrowed; the process's where None.
    """

    def __init__(
        self, folder: Path | None = None, device: str | None = None, residency: Residency | None = None
    ) -> None:
        self._shelf = Shelf(folder or models_folder())
        self._device = device or wanted_device()
        self._residency = residency
        self._places: dict[tuple[str, str | None], Place] = {}

    def models(self, params: FluxEncodeParams) -> Mapping[str, str]:
        """Digests of the weights.

        Raises:
            Permanent: a file is missing, damaged or of unknown digest; says what would help.
        """
        return self._place(params).digests

    def resident_keys(self, params: FluxEncodeParams) -> AbstractSet[str]:
        """All four networks."""
        return keys_of(self._place(params), self._device)

    def run(self, work: Work[FluxEncodeParams]) -> Outcome:
        """Outputs `identity` (a PulidIdentity) and `face` (the best photo's face, upright, 512 x 512, PNG).

        Raises:
            InvalidInput: a photo cannot be used, named as the caller counts, from 1; or they show different people.
            Permanent: weights or the device are missing; says what would help.
        """
        photos, params = work.inputs["photos"], work.params
        picks = picks_of(params.faces, len(photos), "the largest face is meant")
        place = self._place(params)
        require_device(self._device, torch_facts())
        with borrowed(place, self._device, self._residency or of_process()) as encoders:
            seen: list[Seen] = []
            for number, (photo, pick) in enumerate(zip(photos, picks, strict=True), start=1):
                seen.append(look(encoders, photo, pick, params, number))
                work.progress(number / len(photos))
            refuse_strangers(seen, params.min_similarity)
            identity = join(seen, nobody(encoders), params.fusion, place.names)
        best = int(np.argmax([one.quality for one in seen]))
        return Outcome(
            outputs={
                "identity": Output(save_identity(identity), MEDIA_TYPE, "identity"),
                "face": image_output(seen[best].crop, "identity"),
            },
            facts=_facts(seen, best, params),
        )

    def _place(self, params: FluxEncodeParams) -> Place:
        named = (params.model, params.encoder)
        if named not in self._places:
            self._places[named] = place_of(self._shelf, params)
        return self._places[named]


def refuse_strangers(seen: Sequence[Seen], min_similarity: float) -> None:
    """Refuse photos of different people, by their embeddings' cosine to the quality-weighted consensus.

    Raises:
        InvalidInput: names the photos that differ from the rest, or all where no majority agrees.
    """
    vectors = np.stack([one.face.embedding for one in seen]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = np.array(_weights(seen))

    def consensus(majority: Sequence[int]) -> NDArray[np.float64]:
        return np.asarray((weights[majority, None] * vectors[majority]).sum(axis=0), np.float64)

    strangers.refuse_strangers(range(1, len(seen) + 1), vectors, strangers.cosine(min_similarity), consensus)


def join(seen: Sequence[Seen], uncond: Tensor, fusion: Fusion, names: Mapping[str, str]) -> PulidIdentity:
    """One identity of several photos of one person."""
    tokens = torch.stack([one.tokens for one in seen])
    return PulidIdentity(
        id=fuse(tokens, fusion, _weights(seen) if fusion == "weighted" else None),
        uncond=uncond,
        arcface=torch.from_numpy(np.stack([one.face.embedding for one in seen])),
        about=PulidAbout(models=dict(names), fusion=fusion, photos=len(seen), faces=tuple(one.place for one in seen)),
    )


def _weights(seen: Sequence[Seen]) -> list[float]:
    """The photos' qualities; all alike where none has any."""
    qualities = [one.quality for one in seen]
    return qualities if any(qualities) else [1.0] * len(seen)


def look(encoders: Encoders, photo: bytes, pick: int | None, params: FluxEncodeParams, number: int) -> Seen:
    """Everything that is done with one photo, the photos[number] of the caller.

    Raises:
        InvalidInput: it is no picture, shows no face, not the face that was picked, or one that cannot be used.
    """
    try:
        whole = decode(photo)
        image, factor = shrunk(whole, LONGEST_PX)
        found = encoders.faces.find(image, params.det_size, params.min_det_size, params.min_det_score)
        face = choose(found if pick is None else distinct(found), pick, params.background_face_ratio, number)
        counted = prominent(distinct(found), params.background_face_ratio)
        crop = crop512(image, face.points)
        pose = head_pose(face.points)
        looks = Looks(face.box[2] / factor, pose.yaw, pose.pitch, level(crop), detail(whole, face.points / factor))
    except InvalidInput as error:
        field = error.field if error.field.startswith("faces[") else f"photos[{number}]"
        raise InvalidInput(field, error.found, error.mend) from error
    refuse_unusable(number, looks, params)
    bare = grey_on_white(crop, parse(encoders.parser, crop))
    return Seen(
        face,
        crop,
        looks,
        worth(looks, face.score),
        encode(encoders, face, bare),
        place_in_photo(face, counted, factor, number - 1),
    )


def place_in_photo(face: AntelopeFace, counted: Sequence[AntelopeFace], factor: float, photo: int) -> FacePlace:
    """Where a face and those of other people are in the photo at that index (from 0), as it was handed in.

    Args:
        face: the subject's, in the photo that was analysed.
        counted: the faces that count there, none twice; one that lies where `face` does is the same.
        factor: by which the photo was reduced for that.
        photo: its index.
    """
    others = tuple(_scaled(other.box, 1 / factor) for other in counted if not coincide(face.box, other.box))
    return FacePlace(photo=photo, box=_scaled(face.box, 1 / factor), others=others or None)


def _scaled(box: Box, factor: float) -> Box:
    x, y, width, height = (float(edge) * factor for edge in box)
    return x, y, width, height


@torch.inference_mode()
def encode(encoders: Encoders, face: AntelopeFace, bare: NDArray[np.float32]) -> Tensor:
    """The identity tokens of one face, [32, 2048].

    Args:
        encoders: the networks.
        face: what antelopev2 found.
        bare: the face in grey on white, float32 [512, 512, 3], 0 to 1.
    """
    weights = next(encoders.tower.parameters())
    pixels = torch.from_numpy(bare).to(weights.device).permute(2, 0, 1)[None]
    features = encoders.tower(prepare(pixels, encoders.tower.shape.image_size).to(weights.dtype))
    arcface = torch.from_numpy(face.embedding)[None].to(weights.device)
    tokens: Tensor = encoders.idformer(identity_condition(arcface, features.projected), features.hidden)
    return tokens[0]


def choose(faces: Sequence[AntelopeFace], pick: int | None, background_face_ratio: float, photo: int) -> AntelopeFace:
    """The face a photo is about: the one picked, else the largest.

    Args:
        faces: what was found, largest first, each once where one is picked.
        pick: counted from the left, the leftmost being 1, among the faces not narrower than `background_face_ratio` of
            the widest.
        background_face_ratio: 0 to 1.
        photo: the photo's position as the caller counts, from 1.

    Raises:
        InvalidInput: no face, or fewer than the pick.
    """
    if not faces:
        raise InvalidInput(f"photos[{photo}]", "no face was found", _FRONTAL)
    if pick is None:
        return faces[0]
    return picked(prominent(faces, background_face_ratio), pick, photo)


@torch.inference_mode()
def nobody(encoders: Encoders) -> Tensor:
    """The tokens of nobody, [32, 2048], for the negative branch of true CFG."""
    return encoders.idformer.unconditional(vit_tokens=encoders.tower.shape.tokens)[0]


def worth(looks: Looks, score: float) -> float:
    """How well a face serves, 0 to 1: as the portable engine reckons it, times the detector's confidence."""
    return quality(looks.width_px, looks.yaw, looks.pitch, looks.sharpness, looks.level) * min(1.0, score)


def _facts(seen: Sequence[Seen], best: int, params: FluxEncodeParams) -> dict[str, JsonValue]:
    """What the manifest says: no embedding, photos counted from 1 as the caller counts them."""
    return {
        "encoder": ", ".join(filter(None, (params.encoder, params.model))),
        "fusion": params.fusion,
        "best_photo": best + 1,
        "faces": [
            {
                "photo": number,
                "width_px": round(one.looks.width_px, 1),
                "yaw_deg": round(one.looks.yaw, 1),
                "pitch_deg": round(one.looks.pitch, 1),
                "sharpness": round(one.looks.sharpness, 1),
                "exposure": round(one.looks.level, 1),
                "score": round(one.face.score, 3),
                "quality": round(one.quality, 3),
            }
            for number, one in enumerate(seen, start=1)
        ],
    }
