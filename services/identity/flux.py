"""The GPU engine: what antelopev2 and EVA02-CLIP see in the photos becomes PuLID's identity tokens.

Source: PuLID for FLUX (Guo et al. 2024), `get_id_embedding` in pulid/pipeline_flux.py. One thing differs: the crop is
aligned by antelopev2's own key points and not by those of a second detector, which may find another face.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn

from services.identity.antelope import DETECTOR, PACK, RECOGNISER, Antelope, AntelopeFace, locate, open_antelope
from services.identity.crop512 import TEMPLATE, crop512, crop_matrix, moved
from services.identity.parsing import grey_on_white, load_parser, parse
from services.identity.picks import picks_of
from services.identity.stage import FluxEncodeParams
from shared.contracts.errors import InvalidInput
from shared.flux.pulid.artifact import PulidAbout, PulidIdentity, save_identity
from shared.flux.pulid.eva import EvaTower, identity_condition, load_eva, prepare
from shared.flux.pulid.fusion import fuse
from shared.flux.pulid.idformer import IDFormer
from shared.flux.pulid.index import EvaShape
from shared.flux.pulid.weights import Pulid, load_pulid, published
from shared.models.catalogue import ModelCatalogue, load_models
from shared.models.device import require_device, torch_facts, wanted_device
from shared.models.settings import models_folder
from shared.models.shelf import Shelf
from shared.vision.boxes import centre, shrunk
from shared.vision.codec import Image, decode
from shared.vision.measures import grey, sharpness
from shared.vision.output import image_output
from shared.vision.weights import sha256_of
from shared.worker.operation import Outcome, Output, Work

PULID = "pulid_flux_v0.9.1"
VISION_TOWER = "EVA02-CLIP-L-336"
PARSER = "face-parsing"

MEDIA_TYPE = "application/x-safetensors"

LONGEST_PX = 1024
"""Larger photos are reduced first, as for PuLID's training."""

_AMPLE_WIDTH_PX = 256.0
_AMPLE_SHARPNESS = 400.0
_MIDDLE_LEVEL = 127.5
_SHARPNESS_CROP_PX = 128
_FRONTAL = "Use a photo in which the face is seen from the front, whole, lit and in focus."


@dataclass(frozen=True)
class Encoders:
    """The four networks; the last three on one device, the last two in one precision."""

    faces: Antelope
    parser: nn.Module
    """A FaceParser, or whatever scores its classes."""
    tower: EvaTower
    idformer: IDFormer


@dataclass(frozen=True, eq=False)
class Seen:
    """What one photo says of its subject."""

    face: AntelopeFace
    crop: Image
    width_px: float
    """Of the face, in the photo as it was handed in."""
    quality: float
    tokens: Tensor
    """[32, 2048]."""


class FluxEncoder:
    """identity.encode with PuLID's encoders.

    Args:
        encoders: the networks, loaded.
        models: their weights, name to SHA-256.
    """

    def __init__(self, encoders: Encoders, models: Mapping[str, str]) -> None:
        self._encoders = encoders
        self._models = models
        shape = encoders.tower.shape
        with torch.inference_mode():
            patches = (shape.image_size // shape.patch_size) ** 2
            self._nobody = encoders.idformer.unconditional(vit_tokens=patches + 1)[0]

    def models(self, _: FluxEncodeParams) -> Mapping[str, str]:
        return self._models

    def run(self, work: Work[FluxEncodeParams]) -> Outcome:
        """Outputs `identity` (a PulidIdentity) and `face` (the best photo's face, upright, 512 x 512, PNG).

        Raises:
            InvalidInput: a photo cannot be used; names it as the caller counts, from 1.
        """
        photos, params = work.inputs["photos"], work.params
        picks = picks_of(params.faces, len(photos), "the largest face is meant")
        seen: list[Seen] = []
        for number, (photo, pick) in enumerate(zip(photos, picks, strict=True), start=1):
            seen.append(look(self._encoders, photo, pick, params, number))
            work.progress(number / len(photos))
        qualities = [one.quality for one in seen]
        best = int(np.argmax(qualities))
        return Outcome(
            outputs={
                "identity": Output(save_identity(self._join(seen, params)), MEDIA_TYPE, "identity"),
                "face": image_output(seen[best].crop, "identity"),
            },
            facts=_facts(seen, best, params),
        )

    @torch.inference_mode()
    def _join(self, seen: Sequence[Seen], params: FluxEncodeParams) -> PulidIdentity:
        qualities = [one.quality for one in seen]
        weights = qualities if any(qualities) else [1.0] * len(seen)
        tokens = torch.stack([one.tokens for one in seen])
        return PulidIdentity(
            id=fuse(tokens, params.fusion, weights if params.fusion == "weighted" else None),
            uncond=self._nobody,
            arcface=torch.from_numpy(np.stack([one.face.embedding for one in seen])),
            about=PulidAbout(
                models={
                    "arcface": params.encoder,
                    "face_parser": PARSER,
                    "eva_clip": VISION_TOWER,
                    "idformer": params.model,
                },
                fusion=params.fusion,
                photos=len(seen),
            ),
        )


def open_encoder() -> FluxEncoder:
    """The engine with the weights of this machine's models folder, in bf16 on a GPU and in fp32 on a CPU.

    Raises:
        Permanent: a file is missing, or the device; says what would help.
    """
    return encoder_from(Shelf(models_folder()), wanted_device())


def encoder_from(
    shelf: Shelf,
    device: str,
    catalogue: ModelCatalogue | None = None,
    shape: EvaShape | None = None,
    build: Callable[[], Pulid] = published,
) -> FluxEncoder:
    """The engine with the weights of that shelf.

    Args:
        shelf: where they lie.
        device: `cuda`, `cuda:<index>` or `cpu`, for all four networks.
        catalogue: what must lie there; the product's own where None.
        shape: of the vision tower; another than the published is for tests.
        build: makes the empty PuLID; the same.

    Raises:
        Permanent: a file is missing, damaged or of unknown digest, or the device is missing; says what would help.
    """
    known = load_models() if catalogue is None else catalogue
    paths = {name: _only(shelf.require(known.model(name))) for name in (PULID, VISION_TOWER, PARSER)}
    antelope = locate(shelf.folder / PACK)
    models = {name: shelf.digest(known.model(name)) for name in paths}
    models |= {f"{PACK}/{file}": sha256_of(antelope / file) for file in (DETECTOR, RECOGNISER)}
    require_device(device, torch_facts())
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    encoders = Encoders(
        faces=open_antelope(antelope, device),
        parser=load_parser(paths[PARSER], device),
        tower=load_eva(paths[VISION_TOWER], dtype, device, shape),
        # Read on the CPU: of the file's two parts the cross-attentions are the larger, and they are not needed here.
        idformer=load_pulid(paths[PULID], dtype, "cpu", build).pulid_encoder.to(device),
    )
    return FluxEncoder(encoders, models)


def look(encoders: Encoders, photo: bytes, pick: int | None, params: FluxEncodeParams, number: int) -> Seen:
    """Everything that is done with one photo, the photos[number] of the caller.

    Raises:
        InvalidInput: it is no picture, shows no face, or not the face that was picked.
    """
    try:
        whole = decode(photo)
        image, factor = shrunk(whole, LONGEST_PX)
        found = encoders.faces.find(image, params.det_size, params.min_det_size, params.min_det_score)
        face = choose(found, pick, params.background_face_ratio, number)
        crop = crop512(image, face.points)
    except InvalidInput as error:
        field = error.field if error.field.startswith("faces[") else f"photos[{number}]"
        raise InvalidInput(field, error.found, error.mend) from error
    bare = grey_on_white(crop, parse(encoders.parser, crop))
    width = face.box[2] / factor
    return Seen(face, crop, width, quality(face, width, crop), encode(encoders, face, bare))


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
        faces: what was found, largest first.
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
    least = background_face_ratio * max(face.box[2] for face in faces)
    prominent = sorted((face for face in faces if face.box[2] >= least), key=lambda face: centre(face.box))
    if pick > len(prominent):
        shown = f"{len(prominent)} face{'' if len(prominent) == 1 else 's'}"
        raise InvalidInput(
            f"faces[{photo}]",
            f"face {pick} was picked, but photos[{photo}] shows {shown}",
            f"Pick a face from 1 (the leftmost) to {len(prominent)}.",
        )
    return prominent[pick - 1]


def quality(face: AntelopeFace, width_px: float, crop: Image) -> float:
    """How well a face serves, 0 to 1: the product of how large, frontal, sharp, evenly exposed and sure it is.

    As the portable engine reckons it, from what five key points tell. Size counts up to 256 pixels, sharpness up to 400
    grey levels squared at 128 pixels; frontal is 1 with the nose midway between the eyes and 0 below one of them;
    exposure falls with the square of the mean grey level's distance from the middle; sure is the detector's score.
    """
    left, right, nose = moved(face.points, crop_matrix(face.points))[:3]
    half = max(1.0, float(right[0] - left[0]) / 2)
    frontal = max(0.0, 1.0 - abs(float(nose[0]) - float(left[0] + right[0]) / 2) / half)
    sharp = min(1.0, sharpness(shrunk(crop, _SHARPNESS_CROP_PX)[0]) / _AMPLE_SHARPNESS)
    left_edge, top = TEMPLATE.min(axis=0).astype(int)
    right_edge, bottom = TEMPLATE.max(axis=0).astype(int)
    level = float(grey(crop)[top:bottom, left_edge:right_edge].mean())
    exposed = max(0.0, 1.0 - ((level - _MIDDLE_LEVEL) / _MIDDLE_LEVEL) ** 2)
    return min(1.0, width_px / _AMPLE_WIDTH_PX) * frontal * sharp * exposed * min(1.0, face.score)


def _only(files: Mapping[str, Path]) -> Path:
    """The one file that a model consists of."""
    (path,) = files.values()
    return path


def _facts(seen: Sequence[Seen], best: int, params: FluxEncodeParams) -> dict[str, JsonValue]:
    """What the manifest says: no embedding, photos counted from 1 as the caller counts them."""
    return {
        "encoder": f"{params.encoder}, {params.model}",
        "fusion": params.fusion,
        "best_photo": best + 1,
        "faces": [
            {
                "photo": number,
                "width_px": round(one.width_px, 1),
                "score": round(one.face.score, 3),
                "quality": round(one.quality, 3),
            }
            for number, one in enumerate(seen, start=1)
        ],
    }
