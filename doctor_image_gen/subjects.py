"""What there is of a person, and its erasure."""

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from doctor_image_gen.lock import PipelineLock
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from services.gateway.erase import ErasureReport, erase_subject
from shared.contracts.base import Identifier
from shared.contracts.errors import InvalidInput
from shared.jobs.port import LetterFilter
from shared.storage.layout import subject_prefix

IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)


@dataclass(frozen=True)
class Holdings:
    """What is kept of a person: objects by kind, jobs by state, dead letters by state; whether it was erased."""

    subject: str
    erased: bool
    objects: Mapping[str, int]
    jobs: Mapping[str, int]
    letters: Mapping[str, int]


def checked(subject: str) -> str:
    """The id itself. Raises InvalidInput where it cannot be a subject's."""
    try:
        return IDENTIFIER.validate_python(subject)
    except ValidationError as error:
        mend = "It has letters, digits, '.', '_' and '-', at most 64, and begins with a letter or digit."
        raise InvalidInput("subject", f"'{subject[:80]}' is no subject's id", mend) from error


def holdings(connections: Connections, subject: str) -> Holdings:
    """Count what is kept of a person. Queued messages are not looked into: they belong to the jobs under way."""
    prefix = subject_prefix(subject)
    groups = {
        state: sum(group.count for group in connections.jobs.letter_groups(LetterFilter(subject=subject, state=state)))
        for state in ("open", "replayed", "discarded")
    }
    return Holdings(
        subject,
        connections.jobs.is_entombed(subject),
        dict(Counter(key.removeprefix(prefix).split("/")[0] for key in connections.store.keys(prefix))),
        dict(Counter[str](job.state for job in connections.jobs.of_subject(subject))),
        {state: count for state, count in groups.items() if count},
    )


def erase(connections: Connections, settings: Settings, subject: str) -> ErasureReport:
    """Erase everything of a person, for good.

    Raises:
        Transient: something is away. From then on nothing of the person is taken in; erase once more.
        InvalidInput: another process runs the embedded pipeline, out of reach from here.
    """
    with ExitStack() as held:
        if settings.embedded:
            held.enter_context(closing(PipelineLock.take(settings.data_dir)))
        return _erase(connections, settings, subject)


def _erase(connections: Connections, settings: Settings, subject: str) -> ErasureReport:
    return erase_subject(
        subject,
        connections.broker,
        connections.store,
        connections.jobs,
        queues=settings.retry.topology.queue_names,
        results=settings.data_dir / "results",
        silent_after_s=settings.gateway.worker_silent_after_s,
    )
