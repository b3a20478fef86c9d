"""An attempt at a picture, in a line."""

from doctor_image_gen.result import AttemptMade


def in_words(one: AttemptMade) -> str:
    """For instance `attempt 1: likeness 0.52, weight 0.85, failed likeness`."""
    score, weight = one["identity_score"], one["identity_weight"]
    if one["error"] is not None:
        return f"attempt {one['number']}: broke off at {one['error']}"
    said = [
        "likeness not measured" if score is None else f"likeness {score:.2f}",
        *([] if weight is None else [f"weight {weight:.2f}"]),
        "passed" if one["passed"] else f"failed {' and '.join(one['failed']) or 'for no stated reason'}",
        *(["kept"] if one["kept"] else []),
    ]
    return f"attempt {one['number']}: {', '.join(said)}"
