"""The GPU engine of upscale: a network of the ESRGAN family in tiles, the exact size by Lanczos, faces restored."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from services.upscale.networks import Place, keys_of, place_of, restorer, upscaler
from services.upscale.portable import enlarge
from services.upscale.resample import crop_to_aspect, resize
from services.upscale.stage import FluxImageParams, ImageParams
from services.upscale.tiles import free_bytes, magnified, side_for
from shared.models.device import require_device, torch_facts, wanted_device
from shared.models.process import residency as of_process
from shared.models.residency import Residency
from shared.models.settings import models_folder
from shared.models.shelf import Shelf
from shared.vision.codec import Image, decode
from shared.vision.networks.image_models import ImageModel, precision
from shared.vision.networks.insight import distinct
from shared.vision.networks.restorer import restorable, restore_faces
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

LEAST_TILE_PX = 64
"""Smaller plans halve a tile whose size the step states, down to this."""

_NO_LIMIT = 8.0
"""The largest magnification of all."""

_ENLARGED = 0.9
"""The enlargement's part of the progress, where faces are restored afterwards."""


@dataclass(frozen=True)
class Tiled:
    """A network, and how it sees pictures."""

    model: ImageModel
    side_px: int
    overlap_px: int

    def larger(self, picture: Image, progress: Callable[[float], None] = lambda _: None) -> Image:
        """The network's picture of a picture."""
        return magnified(self.model, picture, self.side_px, self.overlap_px, progress)


class FluxImage:
    """Borrows its models of the process's Residency. One step at a time.

    Args:
        folder: of the models; the setting `models_dir` where None.
        device: where it computes, in fp16 on a GPU and in fp32 on a CPU (restorers always in fp32); as the environment
            says where None.
        residency: where models are borrowed; the process's where None.
    """

    def __init__(
        self, folder: Path | None = None, device: str | None = None, residency: Residency | None = None
    ) -> None:
        self._shelf = Shelf(folder or models_folder())
        self._device = device or wanted_device()
        self._residency = residency
        self._places: dict[tuple[object, ...], Place] = {}

    def models(self, params: FluxImageParams) -> Mapping[str, str]:
        """Digests of the weights; none of the method `lanczos` without a face restorer.

        Raises:
            InvalidInput: the catalogue has something else of a model's name.
            Permanent: a file is missing, damaged or not converted; says what would help.
        """
        return self._place(params).digests

    def resident_keys(self, params: FluxImageParams) -> AbstractSet[str]:
        """Of all networks that the parameters name."""
        return keys_of(self._place(params), self._device)

    def run(self, work: Work[FluxImageParams]) -> Outcome:
        """Output `image`: of exactly the size asked for, faces restored where a restorer is named.

        Raises:
            InvalidInput: the picture cannot be read, or a model is of another kind than the parameter asks for.
            Permanent: weights or the device are missing, or a network gave pixels that are no numbers.
            ResourceExhausted: there is no room for the weights, or for the smallest tile.
        """
        params = work.params
        image = decode(work.one("image"))
        place = self._place(params)
        facts: dict[str, JsonValue] = {
            "from_width": image.shape[1],
            "from_height": image.shape[0],
            "width": params.width,
            "height": params.height,
            "method": params.method,
        }
        with ExitStack() as held:
            tiled = self._tiled(held, place, work)
            part = 1.0 if place.restorer is None else _ENLARGED
            if tiled is None:
                result = enlarge(image, _size(params, params.scale))
            else:
                result = by_network(image, params, tiled, lambda done: work.progress(part * done))
                facts |= {
                    "upscaler": tiled.model.name,
                    "network_scale": tiled.model.scale,
                    "tile": tiled.side_px,
                    "precision": str(precision("upscaler", self._device)).removeprefix("torch."),
                }
            if place.restorer is not None:
                result, count = self._restored(held, place, result, params, tiled)
                facts |= {"face_restorer": place.restorer.name, "faces": count}
        work.progress(1.0)
        return Outcome({"image": image_output(result, "result")}, facts)

    def _place(self, params: FluxImageParams) -> Place:
        named = (
            params.method, params.upscaler, params.face_restorer, params.face_encoder, params.face_visibility > 0
        )  # fmt: skip
        if named not in self._places:
            self._places[named] = place_of(self._shelf, params)
        return self._places[named]

    def _tiled(self, held: ExitStack, place: Place, work: Work[FluxImageParams]) -> Tiled | None:
        """The network, borrowed, and the tiles that there is room for; None where none is wanted."""
        if place.upscaler is None:
            return None
        params, device = work.params, require_device(self._device, torch_facts())
        model = held.enter_context(upscaler(place.upscaler, device, self._lender()))
        if params.tile is None:
            side = side_for(model, params.overlap, free_bytes(device), work.plan)
        else:
            side = max(params.tile >> work.plan, LEAST_TILE_PX)
        return Tiled(model, side, params.overlap)

    def _restored(
        self, held: ExitStack, place: Place, image: Image, params: FluxImageParams, tiled: Tiled | None
    ) -> tuple[Image, int]:
        """The picture with its faces restored, and how many there were.

        Faces that are laid back larger than the restorer makes them are enlarged by the network, where there is one.
        """
        if place.restorer is None or place.finder is None:
            return image, 0
        device = require_device(self._device, torch_facts())
        with place.finder.borrowed(device, self._lender()) as find:
            points = [face.points for face in distinct(find.find(image)) if restorable(face.points)]
        if not points:
            return image, 0
        network = held.enter_context(restorer(place.restorer, device, self._lender()))
        weight, visibility = params.face_restorer_weight, params.face_visibility
        larger = None if tiled is None else tiled.larger
        return restore_faces(image, points, network, weight, visibility, larger), len(points)

    def _lender(self) -> Residency:
        return of_process() if self._residency is None else self._residency


def by_network(image: Image, params: FluxImageParams, tiled: Tiled, progress: Callable[[float], None]) -> Image:
    """The picture at exactly the size asked for: cropped to its shape, seen by the network, brought to size, sharpened.

    What the network gives beyond `scale`, or beyond the final size, is averaged; what it lacks, Lanczos adds. A picture
    that is large enough already is not seen by it, unless it keeps the size and only cleans.
    """
    part = crop_to_aspect(image, params.width, params.height)
    growth = min(params.width / part.shape[1], params.height / part.shape[0])
    scale = tiled.model.scale
    if growth <= 1 < scale:
        return enlarge(part, _size(params, params.scale))
    made = tiled.larger(part, progress)
    wanted = min(params.scale, growth)
    if wanted < growth and wanted < scale:
        made = resize(made, round(part.shape[1] * wanted), round(part.shape[0] * wanted))
    return enlarge(made, _size(params, _NO_LIMIT))


def _size(params: FluxImageParams, scale: float) -> ImageParams:
    """What the portable engine is told of the size, for the same way there."""
    return ImageParams(scale=scale, width=params.width, height=params.height, sharpen=params.sharpen)
