"""The GPU engine of generate: FLUX paints the scene from words or a picture, PuLID holds it to who is to be seen."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue
from torch import Tensor

from services.generate.given import Drawing, drawings, people, regions, style
from services.generate.stage import FluxImageParams, FluxParams
from shared.flux.control import Applied, Controls, condition
from shared.flux.control_models import mode_for
from shared.flux.decode import decode, encode
from shared.flux.denoise import Away, Extra, Step, denoise, start
from shared.flux.ip_adapter import styled
from shared.flux.latents import noise
from shared.flux.levels import noise_levels
from shared.flux.painter import Painter
from shared.flux.parts import with_requirements
from shared.flux.preview import shower
from shared.flux.pulid.artifact import PulidIdentity
from shared.flux.regions import subjects
from shared.flux.studio import Studio, Styles, studio_of
from shared.flux.text import PromptEmbedding
from shared.flux.told import Told
from shared.flux.used import strengths
from shared.vision.codec import decode as read
from shared.vision.edges import fitted
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

_SHOWN_FROM, _SHOWN_TO = 0.05, 0.95
"""The sampling's part of the progress."""

PREVIEWS = 10
"""How often a picture that comes into being is shown, about."""


class Beside(NamedTuple):
    """What speaks to the transformer in one run beside words. Controls may be of no drawing at all."""

    people: tuple[PulidIdentity, ...]
    controls: Controls
    styles: Styles | None


class FluxGenerate:
    """Borrows its models of the process's Residency. One step at a time.

    Args:
        studio: of whom it borrows; this machine's, as its settings say, where None.
    """

    def __init__(self, studio: Studio | None = None) -> None:
        self._studio = studio or studio_of()

    def models(self, params: FluxParams) -> Mapping[str, str]:
        """Those of them that are there; `run` says which is missing. With them the settings that change pictures."""
        beside = [one.model for one in params.controls] + ([params.ip_adapter] if params.ip_adapter else [])
        required = [name for one in beside for name in with_requirements(one)]
        return self._studio.used.models(params, [*required, params.identity_model])

    def resident_keys(self, params: FluxParams) -> AbstractSet[str]:
        """The transformer, whoever is to be seen. Words are often remembered, so text encoders are not named."""
        return frozenset({self._studio.key(params.model)})

    def run(self, work: Work[FluxParams]) -> Outcome:
        """Output `image`: from noise, or from the picture at the input `image` where the operation has one.

        Raises:
            InvalidInput: inputs and parameters do not fit each other.
            Permanent: weights are missing, damaged or of another kind.
            ResourceExhausted: there is no room for them.
        """
        params = work.params
        who, follow, wished = people(work), drawings(work), style(work)
        words = self._studio.prompt(params.model, params.prompt)
        others = self._studio.prompt(params.model, params.negative_prompt) if params.cfg != 1.0 else None
        styles = self._studio.styles(wished.adapter, wished.picture) if wished is not None else None
        identity_model = params.identity_model if who else None
        levels = _levels(params)
        with ExitStack() as held:
            nets = [held.enter_context(self._studio.control(one.how.model)) for one in follow]
            painter = held.enter_context(
                self._studio.painting(params.model, identity_model, strengths(params), offloaded=work.plan > 0)
            )
            work.progress(_SHOWN_FROM)
            beside = Beside(who, Controls(painter.transformer, self._at_work(painter, nets, follow)), styles)
            away = None
            if others is not None:
                led_away = self._told(painter, params, others, beside, "uncond").branch()
                away = Away(led_away, params.cfg, params.cfg_start_step)
            latent = denoise(
                painter.transformer,
                self._start(painter, work, levels),
                levels,
                self._told(painter, params, words, beside, "id").branch(),
                params.guidance,
                away,
                _teller(painter, work),
            )
            picture = decode(painter.vae, latent, self._studio.speed.vae_tiled_from_px)
        facts: dict[str, JsonValue] = {
            "identity": identity_model or "none",
            "people": len(who),
            "first_sigma": round(levels[0], 6),
            "steps": len(levels) - 1,
            "prompt_tokens_left_out": words.tokens_left_out,
        }
        return Outcome({"image": image_output(picture, "intermediate")}, facts)

    def _told(
        self,
        painter: Painter,
        params: FluxParams,
        words: PromptEmbedding,
        beside: Beside,
        tokens: Literal["id", "uncond"],
    ) -> Told:
        """What is led to, by the people's own tokens ("id"); or what is led away from, by nobody's ("uncond")."""
        seen = subjects(
            beside.people, regions(params), params.identity_weight, params.identity_start_step,
            params.width, params.height, self._studio.device, self._studio.dtype, tokens,
        )  # fmt: skip
        wanted = tokens == "id"
        extras: list[Extra] = [beside.controls if wanted else beside.controls.again]
        if beside.styles is not None:
            shown = beside.styles.picture if wanted else beside.styles.nothing
            extras.append(styled(painter.transformer, shown, params.ip_adapter_weight))
        return Told(words, tuple(seen), tuple(extras))

    def _start(self, painter: Painter, work: Work[FluxParams], levels: Sequence[float]) -> Tensor:
        """The latent that sampling starts from, noised to the first of the levels."""
        params = work.params
        drawn = noise(params.width, params.height, work.seed).to(self._studio.device)
        blob = work.perhaps("image")
        if blob is None:
            return start(drawn, levels)
        shown = fitted(read(blob), params.width, params.height)
        known = encode(painter.vae, shown, self._studio.speed.vae_tiled_from_px)
        return start(drawn, levels, known.to(self._studio.device))

    def _at_work(self, painter: Painter, nets: Sequence[Any], follow: Sequence[Drawing]) -> list[Applied]:
        """Each ControlNet on its drawing."""
        return [
            Applied(
                net=net,
                condition=condition(net, painter.vae, one.picture, self._studio.speed.vae_tiled_from_px),
                mode=mode_for(one.how.model, one.how.kind, net),
                strength=one.how.strength,
                start=one.how.start,
                end=one.how.end,
            )
            for net, one in zip(nets, follow, strict=True)
        ]


def _levels(params: FluxParams) -> list[float]:
    """The noise levels of the sampling, from noise or from a picture."""
    if isinstance(params, FluxImageParams):
        return noise_levels(params, params.width, params.height, params.denoise, params.schedule_cut)
    return noise_levels(params, params.width, params.height)


def _teller(painter: Painter, work: Work[FluxParams]) -> Callable[[Step], None]:
    """What tells of each step that is taken, and shows the picture now and then."""
    show = shower(painter.vae, work.show, every=max(1, work.params.steps // PREVIEWS))

    def tell(step: Step) -> None:
        work.progress(_SHOWN_FROM + (_SHOWN_TO - _SHOWN_FROM) * step.number / step.count)
        show(step)

    return tell
