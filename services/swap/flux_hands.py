"""The GPU engine of hands: a YOLO detector finds them, FLUX paints each anew, enlarged and within a mask."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from services.swap.detailer.engine import Detailer
from services.swap.stage import FluxHandsParams
from shared.flux.studio import Studio
from shared.worker.operation import Outcome, Work


class FluxHands:
    """swap.hands by FaceDetailer's algorithm. The argument is `services.swap.detailer.engine.Detailer`'s."""

    def __init__(self, studio: Studio | None = None) -> None:
        self._detailer = Detailer(studio)

    def models(self, params: FluxHandsParams) -> Mapping[str, str]:
        """As `Detailer.models`."""
        return self._detailer.models(params)

    def resident_keys(self, params: FluxHandsParams) -> AbstractSet[str]:
        """The transformer and the detector."""
        return self._detailer.resident_keys(params)

    def run(self, work: Work[FluxHandsParams]) -> Outcome:
        """Output `image`: the picture with its hands painted anew; as it came where there are none.

        Raises:
            InvalidInput, Permanent, ResourceExhausted: as `Detailer.run`.
        """
        return self._detailer.run(work, "hands")
