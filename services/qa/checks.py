"""Holds a picture's measures against their bounds. Pure: an observation in, checks out, each with its reason."""

from services.qa.observation import FaceObserved, Observation
from services.qa.stage import ScoreParams
from shared.contracts.verdict import LIKENESS, SAME_PERSON, Check

_NO_FACE = "No face was found in the picture."


def all_checks(seen: Observation, params: ScoreParams) -> tuple[Check, ...]:
    """Every check, always in the same order; those about the main face say so where there is none."""
    main = seen.faces[0] if seen.faces else None
    return (
        _likeness(main, params),
        _identities(seen),
        _faces(seen, params),
        _framing(main, params),
        _face_sharpness(main, params),
        _picture_sharpness(seen, params),
        _brightest(seen, params),
        _darkest(seen, params),
        _spread(seen, params),
        _not_black(seen, params),
        _dimensions(seen, params),
    )


def _likeness(main: FaceObserved | None, params: ScoreParams) -> Check:
    bound = f"at least {params.min_likeness:.2f}"
    if main is None:
        return Check(name=LIKENESS, passed=False, value=None, bound=bound, reason=_NO_FACE)
    passed = main.likeness >= params.min_likeness
    verb = "is" if passed else "is not"
    reason = (
        f"The main face {verb} enough like the subject: likeness {main.likeness:.2f} to all photos together,"
        f" {main.best_likeness:.2f} to the nearest one."
    )
    return Check(name=LIKENESS, passed=passed, value=main.likeness, bound=bound, reason=reason)


def _identities(seen: Observation) -> Check:
    count = sum(face.likeness >= SAME_PERSON for face in seen.faces)
    verb = "carry" if count > 1 else "carries"
    reason = f"{faces_in_words(count)} of the picture {verb} the subject's identity."
    return Check(name="identities", passed=count == 1, value=float(count), bound="exactly 1", reason=reason)


def _faces(seen: Observation, params: ScoreParams) -> Check:
    count = len(seen.faces)
    bound = f"1 to {params.max_faces}"
    reason = f"The picture shows {faces_in_words(count).lower()}."
    return Check(name="faces", passed=1 <= count <= params.max_faces, value=float(count), bound=bound, reason=reason)


def _framing(main: FaceObserved | None, params: ScoreParams) -> Check:
    low, high = params.min_face_width_share, params.max_face_width_share
    bound = f"{100 * low:.0f} to {100 * high:.0f} % of the width"
    if main is None:
        return Check(name="face_width", passed=False, value=None, bound=bound, reason=_NO_FACE)
    reason = f"The main face takes {100 * main.width_share:.1f} % of the picture's width."
    passed = low <= main.width_share <= high
    return Check(name="face_width", passed=passed, value=main.width_share, bound=bound, reason=reason)


def _face_sharpness(main: FaceObserved | None, params: ScoreParams) -> Check:
    bound = f"at least {params.min_face_sharpness:.0f}"
    if main is None:
        return Check(name="face_sharpness", passed=False, value=None, bound=bound, reason=_NO_FACE)
    passed = main.sharpness >= params.min_face_sharpness
    reason = f"The main face is {'sharp' if passed else 'blurred'}: its sharpness is {main.sharpness:.0f}."
    return Check(name="face_sharpness", passed=passed, value=main.sharpness, bound=bound, reason=reason)


def _picture_sharpness(seen: Observation, params: ScoreParams) -> Check:
    passed = seen.sharpness >= params.min_picture_sharpness
    bound = f"at least {params.min_picture_sharpness:.0f}"
    reason = f"The picture as a whole is {'sharp' if passed else 'blurred'}: its sharpness is {seen.sharpness:.0f}."
    return Check(name="picture_sharpness", passed=passed, value=seen.sharpness, bound=bound, reason=reason)


def _brightest(seen: Observation, params: ScoreParams) -> Check:
    value = seen.levels.brightest
    passed = value > params.brightest_level_above
    bound = f"above {params.brightest_level_above:.0f} of 255"
    reason = f"The brightest spot has grey level {value:.0f} of 255{'' if passed else ': the picture is underexposed'}."
    return Check(name="brightest_level", passed=passed, value=value, bound=bound, reason=reason)


def _darkest(seen: Observation, params: ScoreParams) -> Check:
    value = seen.levels.darkest
    passed = value < params.darkest_level_below
    bound = f"below {params.darkest_level_below:.0f} of 255"
    reason = f"The darkest spot has grey level {value:.0f} of 255{'' if passed else ': the picture is overexposed'}."
    return Check(name="darkest_level", passed=passed, value=value, bound=bound, reason=reason)


def _spread(seen: Observation, params: ScoreParams) -> Check:
    value = seen.levels.spread
    passed = value > params.level_spread_above
    bound = f"above {params.level_spread_above:.0f} grey levels"
    reason = f"The grey levels spread by {value:.0f} about their mean{'' if passed else ': the picture is flat'}."
    return Check(name="level_spread", passed=passed, value=value, bound=bound, reason=reason)


def _not_black(seen: Observation, params: ScoreParams) -> Check:
    value = seen.levels.mean
    passed = value > params.mean_level_above
    bound = f"above {params.mean_level_above:.0f} of 255"
    reason = f"The mean grey level is {value:.0f} of 255{'' if passed else ': the picture is black'}."
    return Check(name="not_black", passed=passed, value=value, bound=bound, reason=reason)


def _dimensions(seen: Observation, params: ScoreParams) -> Check:
    passed = (seen.width_px, seen.height_px) == (params.width, params.height)
    bound = f"{params.width} x {params.height} pixels"
    reason = f"The picture is {seen.width_px} x {seen.height_px} pixels{'' if passed else f', not {bound}'}."
    return Check(name="dimensions", passed=passed, value=float(seen.width_px), bound=bound, reason=reason)


def faces_in_words(count: int) -> str:
    """Such as "No face", "1 face", "2 faces"."""
    if count == 0:
        return "No face"
    return "1 face" if count == 1 else f"{count} faces"
