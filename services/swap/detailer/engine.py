"""FaceDetailer on FLUX: what a detector finds is cut out, enlarged, painted anew within a mask, and laid back.

Source: ComfyUI Impact Pack, FaceDetailer; what differs is written down in docs/detail.md. FLUX is borrowed as generate
borrows it, under the same keys, so that one stands in memory for both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from pydantic import JsonValue

from services.swap.detailer.masks import laid_in, soften
from services.swap.detailer.paint import Brush, painted
from services.swap.detailer.plan import Crop, Ready, batches, plan
from services.swap.detailer.regions import Size
from services.swap.detailer.segments import Choice, Found, choose
from services.swap.stage import DetailParams
from services.swap.unchanged import unchanged
from shared.contracts.errors import InvalidInput
from shared.flux.denoise import Away, Step
from shared.flux.levels import noise_levels
from shared.flux.painter import Painter
from shared.flux.parts import proper_name
from shared.flux.preview import shower
from shared.flux.pulid.artifact import PulidIdentity
from shared.flux.regions import subjects
from shared.flux.studio import Studio, studio_of
from shared.flux.text import PromptEmbedding
from shared.flux.told import Told
from shared.flux.used import strengths
from shared.models.device import require_device, torch_facts
from shared.models.shelf import Shelf
from shared.models.single import Single, single
from shared.vision.boxes import Box
from shared.vision.codec import Image, decode
from shared.vision.networks.yolo import yolo_key, yolo_resident
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

How = TypeVar("How", bound=DetailParams)

_SHOWN_FROM, _SHOWN_TO = 0.05, 0.95
"""The painting's part of the progress."""

PREVIEWS = 4
"""How often a crop that comes into being is shown, about."""


@dataclass(frozen=True)
class Who:
    """Whose face is painted, and how strongly it is held to theirs (shared.flux.params.Held)."""

    identity: PulidIdentity
    model: str
    weight: float
    start_step: int


Judge = Callable[[Image, Sequence[Found]], Sequence[tuple[str, Mapping[str, JsonValue]]]]
"""Of what was found in a picture, for each: why it is to be left alone (or empty), and what the manifest is told."""


class Detailer:
    """What both detailers have in common. Borrows its models of the process's Residency. One step at a time.

    Args:
        studio: of whom it borrows; this machine's, as its settings say, where None.
    """

    def __init__(self, studio: Studio | None = None) -> None:
        self._studio = studio or studio_of()
        self._detectors: dict[str, Single] = {}

    def models(self, params: DetailParams, beside: Sequence[str] = ()) -> Mapping[str, str]:
        """The detector and those of the others that are there; `run` says which is missing. And settings of speed.

        Args:
            params: the step's.
            beside: names of further models.

        Raises:
            InvalidInput, Permanent, IntegrityError: the detector is missing, damaged or another kind of model.
        """
        detector = self._detector(params)
        return {**self._studio.used.models(params, beside), detector.name: detector.digest}

    def resident_keys(self, params: DetailParams) -> frozenset[str]:
        """The transformer and the detector. Words are often remembered, so text encoders are not named.

        Raises:
            InvalidInput, Permanent, IntegrityError: as `models`.
        """
        detector = yolo_key(self._detector(params).path, self._studio.device)
        return frozenset({self._studio.key(params.model), detector})

    def run(self, work: Work[How], what: str, who: Who | None = None, judge: Judge | None = None) -> Outcome:
        """Output `image`: the picture, painted anew in places; byte for byte as it came where there is nothing to do.

        Args:
            work: with the input `image`.
            what: is looked for, in the plural, for facts and errors.
            who: whose identity what is painted is held to; nobody's where None.
            judge: says what is left alone beside that which the parameters say; nothing where None.

        Raises:
            InvalidInput: the picture cannot be read, or shows nothing where something is required.
            Permanent: weights are missing, damaged or of another kind, or give what are no numbers.
            ResourceExhausted: there is no room for them.
        """
        params, data = work.params, work.one("image")
        image = decode(data)
        height, width = image.shape[:2]
        choice = choose(self.found(image, params), width, height, params.drop_size, params.most, params.order)
        if params.required and not choice.done:
            raise InvalidInput(
                "image", f"it shows no {what}", "Generate it again with another seed, or hand in another."
            )
        crops = plan(choice, width, height, params)
        verdicts = judge(image, choice.done) if judge is not None else [("", {})] * len(crops)
        crops = [
            crop if crop.skipped or not why else replace(crop, size=None, skipped=why)
            for crop, (why, _) in zip(crops, verdicts, strict=True)
        ]
        lots = batches(crops, self._at_once(work))
        identity = proper_name(who.model) if who is not None else "none"
        facts: dict[str, JsonValue] = {
            what: len(crops),
            "painted": sum(map(len, lots)),
            "detector": self._detector(params).name,
            "identity": identity,
            "crops": _told(crops, lots, [said for _, said in verdicts], choice, params, work.seed),
        }
        if not lots:
            nothing = unchanged(data, what)
            note = f"None of the {what} was to be painted; the picture is unchanged."
            return Outcome(nothing.outputs, {**nothing.facts, **facts} if not crops else {**facts, "note": note})
        words = {one.crop.words: self._studio.prompt(params.model, one.crop.words) for lot in lots for one in lot}
        others = self._studio.prompt(params.model, params.negative_prompt) if params.cfg != 1.0 else None
        with self._studio.painting(
            params.model, None if who is None else who.model, strengths(params), offloaded=work.plan > 0
        ) as painter:
            work.progress(_SHOWN_FROM)
            steps = _Steps(work, painter, sum(map(len, lots)) * params.cycles)
            for lot in lots:
                size = lot[0].size
                brush = self._brush(painter, words[lot[0].crop.words], others, who, size, params)
                levels = noise_levels(params, size.width, size.height, params.denoise)
                pictures = painted(image, lot, levels, work.seed, brush, params, steps.teller(len(lot)))
                for one, picture in zip(lot, pictures, strict=True):
                    mask = soften(one.crop.mask, params.feather)
                    image = laid_in(image, one.crop.region, picture, mask)
                steps.done(len(lot) * params.cycles)
        facts["prompt_tokens_left_out"] = max(one.tokens_left_out for one in words.values())
        return Outcome({"image": image_output(image, "intermediate")}, facts)

    def found(self, image: Image, params: DetailParams) -> list[Found]:
        """What the detector finds, in its order. It is borrowed for this alone."""
        require_device(self._studio.device, torch_facts())
        path = self._detector(params).path
        key = yolo_key(path, self._studio.device)
        with self._studio.residency.use(key, lambda: yolo_resident(path, self._studio.device)) as detector:
            return [Found(one.box, one.score) for one in detector.it.find(image, params.min_score)]

    def _detector(self, params: DetailParams) -> Single:
        if params.detector not in self._detectors:
            self._detectors[params.detector] = single(Shelf(self._studio.folder), params.detector, ".onnx", "detector")
        return self._detectors[params.detector]

    def _at_once(self, work: Work[How]) -> int:
        """How many crops may be in a batch: one after running out of memory, and beside a cache.

        A cache of earlier steps decides for a whole batch, so a crop's picture would depend on which others are in it.
        """
        return 1 if work.plan > 0 or self._studio.speed.first_block_cache else work.params.max_batch

    def _brush(
        self,
        painter: Painter,
        words: PromptEmbedding,
        others: PromptEmbedding | None,
        who: Who | None,
        size: Size,
        params: DetailParams,
    ) -> Brush:
        """What a lot's crops are painted with; what they are led away from sees nobody's tokens."""
        device = self._studio.device

        def told(prompt: PromptEmbedding, tokens: Literal["id", "uncond"]) -> Told:
            if who is None:
                return Told(prompt)
            seen = subjects([who.identity], (), who.weight, who.start_step, *size, device, self._studio.dtype, tokens)
            return Told(prompt, tuple(seen))

        away = None
        if others is not None:
            away = Away(told(others, "uncond").branch(), params.cfg, params.cfg_start_step)
        branch = told(words, "id").branch()
        return Brush(painter.transformer, painter.vae, device, branch, away, self._studio.speed.vae_tiled_from_px)


class _Steps(Generic[How]):
    """Tells of the steps of all crops and cycles as one, and shows the first crop of each lot now and then."""

    def __init__(self, work: Work[How], painter: Painter, total: int) -> None:
        self._work = work
        self._total = total
        self._done = 0
        self._show = shower(painter.vae, work.show, every=max(1, work.params.steps // PREVIEWS))

    def teller(self, crops: int) -> Callable[[int, Step], None]:
        """What is told of each step of a lot of so many crops, and in which cycle."""

        def tell(cycle: int, step: Step) -> None:
            share = (self._done + crops * (cycle + step.number / step.count)) / self._total
            self._work.progress(_SHOWN_FROM + (_SHOWN_TO - _SHOWN_FROM) * share)
            self._show(step)

        return tell

    def done(self, more: int) -> None:
        """A lot is finished: so many crops' cycles."""
        self._done += more


def _told(
    crops: Sequence[Crop],
    lots: Sequence[Sequence[Ready]],
    said: Sequence[Mapping[str, JsonValue]],
    choice: Choice,
    params: DetailParams,
    seed: int,
) -> list[JsonValue]:
    """What the manifest is told of each: boxes and regions as x, y, width, height in the picture's pixels."""
    batch_of = {one.crop.number: number for number, lot in enumerate(lots) for one in lot}
    told: list[JsonValue] = []
    for crop, more in zip(crops, said, strict=True):
        one: dict[str, JsonValue] = {**_of(crop.found), **more}
        if crop.size is None:
            one["skipped"] = crop.skipped
        else:
            region, size = crop.region, crop.size
            levels = noise_levels(params, size.width, size.height, params.denoise)
            one["region"] = [region.left, region.top, *reversed(region.size)]
            one["painted_px"] = [*size]
            one["first_sigma"] = round(levels[0], 6)
            one["steps"] = len(levels) - 1
            one["seed"] = seed + crop.number
            one["batch"] = batch_of[crop.number] + 1
            one["batch_of"] = len(lots[batch_of[crop.number]])
        told.append(one)
    return [*told, *({**_of(left.found), "skipped": left.why} for left in choice.left)]


def _of(found: Found) -> dict[str, JsonValue]:
    return {"box": _rounded(found.box), "score": round(found.score, 3)}


def _rounded(box: Box) -> list[JsonValue]:
    return [round(number, 1) for number in box]
