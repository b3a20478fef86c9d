"""The portable engine: MediaPipe finds, dlib describes, plain measures judge."""

from collections.abc import Mapping

from pydantic import JsonValue

from services.qa.checks import all_checks
from services.qa.observe import Observation, observe
from services.qa.stage import ScoreParams
from shared.contracts.identity import IdentityRecord
from shared.contracts.verdict import Likeness, Verdict, rating_of
from shared.vision.codec import decode
from shared.vision.embedding import ENCODER, FaceEncoder
from shared.vision.faces import FaceFinder
from shared.worker.operation import Outcome, Output, Work


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
        subject = IdentityRecord.from_json(work.one("identity"))
        seen = observe(decode(work.one("image")), subject, self._finder, self._encoder)
        verdict = judge(seen, work.params)
        facts: dict[str, JsonValue] = verdict.summary().model_dump(mode="json")
        return Outcome(outputs={"verdict": Output(verdict.to_json(), "application/json", "verdict")}, facts=facts)


def judge(seen: Observation, params: ScoreParams) -> Verdict:
    """The verdict: passed when every check passes.

    The score is the likeness of the largest face to the fused descriptor of all photos: a picture cannot gain by
    resembling one odd photo. The likeness to the nearest photo stands in the check's reason.
    """
    checks = all_checks(seen, params)
    reasons = tuple(check.reason for check in checks if not check.passed)
    likeness = None
    if seen.faces:
        main = seen.faces[0]
        likeness = Likeness(
            score=main.likeness, rating=rating_of(main.likeness), distance=main.distance, encoder=ENCODER
        )
    return Verdict(passed=not reasons, likeness=likeness, checks=checks, reasons=tuple(dict.fromkeys(reasons)))
