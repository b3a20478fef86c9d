"""The editing models that there are, and how each is asked. All else they have in common."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.generate.stage import EditParams

OPERATION = "generate.text_to_image"


@dataclass(frozen=True)
class Editor:
    """One kind of editing model: a pipeline of diffusers.

    Attributes:
        engine: its name here.
        pipeline: its class in diffusers, as a model's `model_index.json` names it.
        photos: how many of the subject's photos it takes, at most.
        words: what the pipeline calls our parameters: its argument to our field.
        own_area: it makes pictures of an area of its own, about 1024 x 1024, unless it is told another.
    """

    engine: str
    pipeline: str
    photos: int
    words: Mapping[str, str]
    own_area: bool = False

    @property
    def place(self) -> str:
        """What the models' catalogue calls this use."""
        return f"{OPERATION}/{self.engine}"


KONTEXT = Editor(
    engine="kontext",
    pipeline="FluxKontextPipeline",
    photos=1,
    words={"guidance_scale": "guidance", "true_cfg_scale": "cfg", "negative_prompt": "negative_prompt"},
    own_area=True,
)
KLEIN = Editor(engine="klein", pipeline="Flux2KleinPipeline", photos=4, words={"guidance_scale": "cfg"})
QWEN = Editor(
    engine="qwen",
    pipeline="QwenImageEditPlusPipeline",
    photos=3,
    words={"true_cfg_scale": "cfg", "negative_prompt": "negative_prompt"},
)


def arguments(editor: Editor, params: EditParams) -> dict[str, object]:
    """What the pipeline is told in its own way, besides what all are told."""
    told: dict[str, object] = {name: getattr(params, field) for name, field in editor.words.items()}
    if params.cfg == 1.0:
        told.pop("negative_prompt", None)  # without true guidance it would be read and not used
    if editor.own_area:
        told["max_area"] = params.width * params.height
    return told
