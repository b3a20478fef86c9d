"""The GPU engines of generate.text_to_image that see the subject: Kontext, FLUX.2 klein and Qwen-Image-Edit."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from services.generate.edit.editors import KLEIN, KONTEXT, QWEN, Editor, arguments
from services.generate.edit.pipeline import described, find, resident
from services.generate.edit.references import references
from services.generate.stage import EXTRA, EditParams
from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.parts import proper_name
from shared.flux.room import running_out
from shared.models.catalogue import load_models
from shared.models.device import require_device, torch_facts, wanted_device
from shared.models.process import residency
from shared.models.settings import models_folder
from shared.models.shelf import Shelf
from shared.vision.codec import Image
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

_SHOWN_FROM, _SHOWN_TO = 0.05, 0.95
"""The sampling's part of the progress."""


class EditGenerate:
    """One kind of editing model. Its weights are the Residency's, which may put them out between two steps.

    Args:
        editor: which kind.
        folder: of the models; the setting `models_dir` where None.
        device: where it computes, in bf16 on a GPU and in fp32 on a CPU; as the environment says where None.
    """

    def __init__(self, editor: Editor, folder: Path | None = None, device: str | None = None) -> None:
        self._editor = editor
        self._folder = folder or models_folder()
        self._device = device or wanted_device()
        self._dtype = torch.float32 if self._device == "cpu" else torch.bfloat16
        self._digests: dict[str, str] = {}

    def models(self, params: EditParams) -> Mapping[str, str]:
        """The pipeline, by the digest of its files. None where a folder of one's own is missing; `run` says so.

        Raises:
            Permanent: a model of the catalogue is not there, or was never pinned.
        """
        known = load_models().named(params.model)
        name = proper_name(params.model)
        if name not in self._digests:
            shelf = Shelf(self._folder)
            digest = shelf.own_digest(name) if known is None else shelf.digest(known)
            if digest is None:
                return {}
            self._digests[name] = digest
        return {name: self._digests[name]}

    def resident_keys(self, params: EditParams) -> AbstractSet[str]:
        """The pipeline, whole."""
        return frozenset({self._key(params.model, offloaded=False)})

    def run(self, work: Work[EditParams]) -> Outcome:
        """Outputs `image`.

        Raises:
            InvalidInput: an input or a parameter that this model has no use for.
            Permanent: weights are missing or wrong, or the picture came out empty.
            ResourceExhausted: there is no room for the weights; or the device ran out of memory all the same.
        """
        params = work.params
        _check_inputs(self._editor, work)
        shown = references(work.inputs["photos"], work.one("identity"), self._editor.photos)
        folder = find(self._folder, params.model, self._editor)
        if params.cfg != 1.0 and described(folder).get("is_distilled"):
            raise InvalidInput(
                "cfg", f"{params.cfg}, and {params.model} is distilled: it takes no true guidance", "Leave it at 1."
            )
        require_device(self._device, torch_facts())
        lender, offloaded = residency(), work.plan > 0
        made = partial(resident, folder, self._editor, self._dtype, self._device, offloaded=offloaded)
        key = self._key(params.model, offloaded=offloaded)
        with lender.use(key, made) as whole, running_out(lender, self._device):
            work.progress(_SHOWN_FROM)
            picture = self._paint(whole.pipeline, work, [PIL.Image.fromarray(one.picture) for one in shown])
        facts: dict[str, JsonValue] = {
            "pipeline": self._editor.pipeline,
            "photos_shown": [one.photo for one in shown],
            "other_faces_shown": [one.others for one in shown],
            "painted": [picture.shape[1], picture.shape[0]],
        }
        return Outcome({"image": image_output(picture, "intermediate")}, facts)

    def _key(self, model: str, *, offloaded: bool) -> str:
        plan = " offloaded" if offloaded else ""
        return f"{self._folder / proper_name(model)} {self._editor.pipeline} {self._dtype}{plan}"

    def _paint(self, pipeline: Any, work: Work[EditParams], photos: list[PIL.Image.Image]) -> Image:
        """The noise is drawn on the CPU, wherever the pipeline computes, so that a seed means the same everywhere."""
        params = work.params

        def tell(_: object, step: int, __: object, tensors: dict[str, object]) -> dict[str, object]:
            work.progress(_SHOWN_FROM + (_SHOWN_TO - _SHOWN_FROM) * (step + 1) / params.steps)
            return tensors

        made = pipeline(
            image=photos if self._editor.photos > 1 else photos[0],
            prompt=f"{params.instruction} {params.prompt}".strip(),
            width=params.width,
            height=params.height,
            num_inference_steps=params.steps,
            generator=torch.Generator("cpu").manual_seed(work.seed),
            output_type="np",
            callback_on_step_end=tell,
            **arguments(self._editor, params),
        )
        return _checked(made.images[0], params.model)


def kontext() -> EditGenerate:
    """FLUX.1 Kontext [dev]: one photo."""
    return EditGenerate(KONTEXT)


def klein() -> EditGenerate:
    """FLUX.2 [klein] 4B: up to four photos, four steps."""
    return EditGenerate(KLEIN)


def qwen() -> EditGenerate:
    """Qwen-Image-Edit 2511: up to three photos."""
    return EditGenerate(QWEN)


def _check_inputs(editor: Editor, work: Work[EditParams]) -> None:
    """Further people, drawings and pictures to take the style from are for the engine `flux`."""
    unused = [name for name in EXTRA if name in work.inputs]
    if unused:
        raise InvalidInput(
            "recipe",
            f"it gives {', '.join(unused)} to the engine {editor.engine}, which paints one person from their photos",
            "Leave these inputs out of the step, or take the engine flux.",
        )


def _checked(made: NDArray[np.float32], model: str) -> Image:
    """[H, W, 3] from 0 to 1 as uint8 RGB.

    Raises:
        Permanent: it is no picture.
    """
    mend = f"Check the weights: `doctorgen models verify {model}`."
    broken = int((~np.isfinite(made)).sum())
    if broken:
        raise Permanent(f"The picture holds {broken} of {made.size} values that are no finite numbers. {mend}")
    picture = np.asarray((made.clip(0, 1) * 255).round(), np.uint8)
    if int(np.ptp(picture, axis=(0, 1)).max()) <= 1:
        raise Permanent(f"The picture is one flat colour, {picture[0, 0].tolist()}. {mend}")
    return picture
