"""The portable engine: MediaPipe finds, dlib describes, plain measures judge."""

from collections.abc import Mapping

from services.qa.checks import all_checks
from services.qa.judge import judge, outcome
from services.qa.observe import observe
from services.qa.stage import ScoreParams
from shared.contracts.identity import IdentityRecord
from shared.vision.codec import decode
from shared.vision.embedding import ENCODER, FaceEncoder
from shared.vision.faces import FaceFinder
from shared.worker.operation import Outcome, Work


class PortableScorer:
    """qa.score on the CPU. What is wrong with the picture goes into the verdict; it is never an error."""

    def __init__(self) -> None:
        self._finder = FaceFinder()
        self._encoder = FaceEncoder()

    def models(self, _: ScoreParams) -> Mapping[str, str]:
        return {**self._finder.models, **self._encoder.models}

    def run(self, work: Work[ScoreParams]) -> Outcome:
        """Output `verdict` (a Verdict).

        Raises:
            InvalidInput: the image is no picture at all, or the identity no IdentityRecord.
        """
        subject = IdentityRecord.from_json(work.one("identity"), "identity")
        seen = observe(decode(work.one("image")), subject, self._finder, self._encoder)
        return outcome(judge(seen, all_checks(seen, work.params), ENCODER))
