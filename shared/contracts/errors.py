"""The errors of the whole product. What is not ours is classified where it enters."""


class DoctorGenError(Exception):
    """Something the pipeline knows how to speak about."""

    hint = "Read the traceback; this class of error has no general remedy."


class InvalidInput(DoctorGenError):
    """The caller's fault: told at once, with the field, what was found and the mend."""

    hint = "Correct the request and submit it again."

    def __init__(self, field: str, found: str, mend: str) -> None:
        super().__init__(f"{field}: {found}. {mend}")
        self.field = field
        self.found = found
        self.mend = mend


class Transient(DoctorGenError):
    """Passing trouble (network, broker, storage): try again later, with backoff and jitter."""

    hint = "Replay once the broker and the object store answer again."


class ResourceExhausted(DoctorGenError):
    """Out of memory or disk: smaller, elsewhere or later."""

    hint = "Replay on a worker with more memory, or with a smaller output."


class Permanent(DoctorGenError):
    """Retrying cannot help."""

    hint = "Mend the cause named in the message, then replay from this step."


class IntegrityError(Permanent):
    """Bytes do not match the digest that names them."""

    hint = "The artifact is corrupt: delete it and replay from the step that makes it."


class Cancelled(DoctorGenError):
    """The job was cancelled by its owner."""

    hint = "Submit the job again if it is still wanted."


class DeadlineExceeded(DoctorGenError):
    """The job's deadline passed before it was finished."""

    hint = "Submit the job again with a later deadline."
