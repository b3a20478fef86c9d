"""From measures and checks to a verdict, the same for every engine."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from services.qa.observation import Observation
from shared.contracts.verdict import Check, Likeness, Verdict, rating_of
from shared.worker.operation import Outcome, Output


def judge(seen: Observation, checks: Sequence[Check], encoder: str) -> Verdict:
    """The verdict: passed when every check passes.

    The score is the likeness of the largest face to all photos together: a picture cannot gain by resembling one odd
    photo. The likeness to the nearest photo stands in the check's reason.
    """
    reasons = tuple(check.reason for check in checks if not check.passed)
    likeness = None
    if seen.faces:
        main = seen.faces[0]
        likeness = Likeness(
            score=main.likeness, rating=rating_of(main.likeness), distance=main.distance, encoder=encoder
        )
    return Verdict(passed=not reasons, likeness=likeness, checks=tuple(checks), reasons=tuple(dict.fromkeys(reasons)))


def outcome(verdict: Verdict, facts: Mapping[str, JsonValue] | None = None) -> Outcome:
    """Output `verdict`, and its summary as facts beside others."""
    told: dict[str, JsonValue] = {**verdict.summary().model_dump(mode="json"), **(facts or {})}
    return Outcome(outputs={"verdict": Output(verdict.to_json(), "application/json", "verdict")}, facts=told)
