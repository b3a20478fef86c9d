"""The checks that the GPU engine has beside portable's. Pure: measures in, checks out, each with its reason."""

from services.qa.checks import faces_in_words
from services.qa.observation import Marks, Observation
from services.qa.stage import FluxScoreParams
from shared.contracts.verdict import Check


def more_checks(seen: Observation, marks: Marks, params: FluxScoreParams) -> tuple[Check, ...]:
    """Always in the same order."""
    return (_leak(seen, params), _hands(marks, params), _blocks(marks, params), _clipped(marks, params), _seam(marks))


def _leak(seen: Observation, params: FluxScoreParams) -> Check:
    bound = f"no other face above {params.max_leak:.2f}"
    others = seen.faces[1:]
    if not others:
        return Check(name="leak", passed=True, value=None, bound=bound, reason="There is no other face in the picture.")
    most = max(face.likeness for face in others)
    over = sum(face.likeness > params.max_leak for face in others)
    reason = (
        f"{faces_in_words(over)} beside the main one {'bear' if over > 1 else 'bears'} the subject's features: "
        f"likeness up to {most:.2f}."
    )
    return Check(name="leak", passed=not over, value=most, bound=bound, reason=reason)


def _hands(marks: Marks, params: FluxScoreParams) -> Check:
    bound = f"0 to {params.max_hands}"
    if marks.hands is None:
        return Check(name="hands", passed=True, value=None, bound=bound, reason="Hands were not looked for.")
    count = marks.hands
    shown = "no hand" if count == 0 else f"{count} hand{'' if count == 1 else 's'}"
    passed = count <= params.max_hands
    reason = f"The picture shows {shown}."
    return Check(name="hands", passed=passed, value=float(count), bound=bound, reason=reason)


def _blocks(marks: Marks, params: FluxScoreParams) -> Check:
    value = marks.blockiness
    passed = value <= params.max_blockiness
    bound = f"at most {params.max_blockiness:.2f}"
    reason = f"Steps at the edges of blocks are {value:.2f} times those elsewhere{'' if passed else ': blocks show'}."
    return Check(name="blockiness", passed=passed, value=value, bound=bound, reason=reason)


def _clipped(marks: Marks, params: FluxScoreParams) -> Check:
    value = marks.clipped
    passed = value <= params.max_clipped
    bound = f"at most {100 * params.max_clipped:.0f} % of the pixels"
    reason = f"{100 * value:.1f} % of the pixels are wholly black or white{'' if passed else ': detail is lost there'}."
    return Check(name="clipped", passed=passed, value=value, bound=bound, reason=reason)


def _seam(marks: Marks) -> Check:
    reason = f"The strongest straight line through the picture stands out {marks.seam:.1f} times from what is about it."
    bound = "reported only: walls and doors have such lines, too"
    return Check(name="seam", passed=True, value=marks.seam, bound=bound, reason=reason)
