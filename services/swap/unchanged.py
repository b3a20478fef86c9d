"""What a step leaves when the picture gives it nothing to do."""

from shared.worker.operation import Outcome, Output


def unchanged(image: bytes, counted: str) -> Outcome:
    """The picture as it came, byte for byte, and a fact that says why. `counted` names what was looked for, plural."""
    output = Output(data=image, media_type="image/png", kind="intermediate")
    return Outcome({"image": output}, {counted: 0, "note": f"No {counted} were found; the picture is unchanged."})
