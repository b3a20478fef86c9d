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


class StoreAway(Transient):
    """The object store does not answer. No fault of the step: it is waited out, and counts as no attempt."""

    hint = "Replay once the object store answers again."


class QueueFull(Transient):
    """A queue holds as many messages as it may: back-pressure, not a fault."""

    hint = "Wait until workers have caught up, or add workers, then try again."


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


class StepTimedOut(DoctorGenError):
    """A step ran past its stage's deadline and was ended."""

    hint = "Look at what the worker was doing; raise step_deadline_s for this stage if the work is that long."


class WorkerCrashed(DoctorGenError):
    """The worker that had the step went away without a word, again and again."""

    hint = "Look for a crash or an out-of-memory kill in the workers' logs; the message itself may cause it."


class DevicePoisoned(DoctorGenError):
    """The accelerator's context can no longer be used; the worker process ends so that it starts afresh."""

    hint = "Replay; if it happens on one node again and again, take the node out and check its accelerator."
