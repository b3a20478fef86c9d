"""Events about a step, made from its message. Told twice, an event keeps its id, so that journals can drop it."""

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from shared.broker.port import Outgoing
from shared.broker.topology import EVENTS
from shared.contracts.base import now
from shared.contracts.event import TERMINAL, Event, EventKind
from shared.contracts.step import StepMessage


def event_id(*parts: object) -> str:
    """The same id for the same happening, whoever tells it and however often."""
    return str(uuid5(NAMESPACE_URL, "doctorgen/" + "/".join(map(str, parts))))


def tried_mark(tried: int) -> tuple[str, ...]:
    """What tells a happening of a further attempt at the picture from the same one of the attempt before."""
    return (f"tried {tried}",) if tried else ()


def step_event(message: StepMessage, kind: EventKind, worker: str, **details: Any) -> Event:
    """An event about the message's current step. `details` are further fields of Event.

    A run ends once, whichever attempt tells of it: a worker that dies after it has told of the end makes the next
    one, whose attempt is another, tell of it again. So does an attempt at the picture.
    """
    attempt = message.attempts + 1
    mark = tried_mark(message.tried)
    happening: tuple[object, ...] = (message.step.name, kind, attempt, details.get("fraction", ""), *mark)
    if details.get("preview") is not None:
        happening += (details["preview"].sha256,)
    if kind == "regenerating":
        happening = (kind, *mark)
    if kind in TERMINAL:
        happening = (message.step.name, kind) if kind == "dead" else (kind,)
    return Event(
        event_id=event_id(message.job_id, message.run, *happening),
        kind=kind,
        job_id=message.job_id,
        batch_id=message.batch_id,
        caller=message.caller,
        subject=message.subject,
        at=now(),
        worker=worker,
        run=message.run,
        step=message.step.name,
        stage=message.step.stage,
        attempt=attempt,
        tried=message.tried or None,
        **details,
    )


def outgoing_event(event: Event) -> Outgoing:
    """The event, addressed to whoever listens; the journal's queue always does."""
    return Outgoing(EVENTS, event.routing_key, event.to_json(), event.event_id)
