"""What follows a job's last step: its end, or another attempt at its picture. And what an attempt's failing leaves."""

import logging
from collections.abc import Sequence
from random import Random

from shared.contracts.attempt import PinnedGate
from shared.contracts.attempts import AttemptRecord, Attempts
from shared.contracts.base import now
from shared.contracts.errors import IntegrityError, InvalidInput, Permanent, ResourceExhausted
from shared.contracts.step import ErrorAccount, StepMessage, StepRecord
from shared.contracts.verdict import Verdict
from shared.storage.artifacts import fetch, store_artifact
from shared.storage.manifests import read_manifest
from shared.storage.port import ArtifactStore
from shared.worker.dispatch import Dispatch, Origin, completed, only_result, sent_back
from shared.worker.errors import classify
from shared.worker.gate import attempt_of, borrowed, goes_on, judged, next_attempt
from shared.worker.step import CorruptInputError, reaching

log = logging.getLogger(__name__)

UNKNOWN = (Permanent, InvalidInput)
"""The record of earlier attempts is lost or corrupt, the store refuses it, or only a newer version reads it."""


def ended(
    done: StepMessage,
    record: StepRecord,
    ahead: StepMessage,
    store: ArtifactStore,
    origin: Origin,
    *,
    found: bool = False,
) -> Dispatch:
    """The job is done, or goes back to its gate's step. `found`: the last step stood already, and has read nothing.

    Raises:
        StoreAway: the object store does not answer.
        CorruptInputError: the verdict, or the picture that nobody has read, is not what its reference says.
        IntegrityError: the record of earlier attempts is not. Where the policy would not have that tried again, it is
            done without, and so are further attempts.
        ResourceExhausted: the store has no room for the record of the attempts. As above.
    """
    verdict = Verdict.from_json(_sound(ahead, ahead.verdict, store))
    if found:
        _sound(ahead, ahead.result, store)
    gate = ahead.gate
    if gate is None:
        return completed(done, record, only_result(ahead, verdict.summary()), origin)
    try:
        before = _before(gate, store)
    except UNKNOWN as error:
        if _is_tried_again(done, error, origin):
            raise
        log.warning("job %s: what is known of its earlier attempts is lost; this one is kept", done.job_id)
        return completed(done, record, judged(ahead, gate, (attempt_of(ahead, gate, verdict),)), origin)
    records = (*before, attempt_of(ahead, gate, verdict, before))
    if not goes_on(ahead, gate, records, now(), _cost_to_others(ahead, gate, records, store)):
        return completed(done, record, judged(ahead, gate, records), origin)
    last = records[-1].attempt
    document = Attempts(attempts=records).to_json()
    try:
        ref = reaching(store_artifact, store, ahead.subject, "verdict", document, "application/json")
    except ResourceExhausted as error:
        if _is_tried_again(done, error, origin):
            raise
        log.warning("job %s: there is no room for the record of its attempts; it makes no more", done.job_id)
        return completed(done, record, judged(ahead, gate, records), origin)
    return sent_back(done, record, next_attempt(ahead, gate, last, ref), last, origin)


def best_so_far(
    message: StepMessage, store: ArtifactStore, origin: Origin, error: ErrorAccount | None = None
) -> Dispatch | None:
    """The end of a job whose deadline passes, or which an error ends, in a further attempt: the best of the finished.

    None where there is none, or none is known of any more. The error is told with the attempt that it broke off.

    Raises:
        StoreAway: the object store does not answer.
    """
    gate = message.gate
    if gate is None or not gate.finished:
        return None
    try:
        records = _before(gate, store)
    except UNKNOWN as unknown:
        log.warning("job %s: what is known of its attempts cannot be read: %s", message.job_id, unknown)
        return None
    return completed(message, None, judged(message, gate, records, error), origin)


def salvaged(message: StepMessage, dispatch: Dispatch, store: ArtifactStore, origin: Origin) -> Dispatch:
    """The same; but where an error ends the job in a further attempt, the best of the finished ones is its picture.

    The letter is kept all the same: other jobs may die of what this attempt died of, and only the letter has the whole
    account.

    Raises:
        StoreAway: the object store does not answer.
    """
    best = best_so_far(message, store, origin, dispatch.died) if dispatch.died else None
    if best is None:
        return dispatch
    log.warning("job %s: an error ended its attempt %d; the best before is kept", message.job_id, message.tried + 1)
    return Dispatch(dispatch.first, (best.first,))


def _sound(ahead: StepMessage, slot: str, store: ArtifactStore) -> bytes:
    """What lies in a slot that no step reads any more."""
    ref = ahead.artifacts[slot][0]
    try:
        return reaching(fetch, store, ref)
    except IntegrityError as error:
        raise CorruptInputError(slot, ref, error) from error


def _is_tried_again(done: StepMessage, error: Exception, origin: Origin) -> bool:
    failing_for_s = (now() - done.failures[0].at).total_seconds() if done.failures else 0.0
    kind = classify(error).__name__
    return origin.policy.delay_ms(done.step.stage, kind, done.attempts + 1, failing_for_s, Random(0)) is not None


def _cost_to_others(
    ahead: StepMessage, gate: PinnedGate, records: Sequence[AttemptRecord], store: ArtifactStore
) -> float:
    """What other jobs paid for the last attempt; asked only where there is a budget to hold."""
    found = [] if gate.max_cost_usd is None else borrowed(records)
    manifests = [reaching(read_manifest, store, ahead.subject, record.key) for record in found]
    return sum(manifest.cost_usd for manifest in manifests if manifest)


def _before(gate: PinnedGate, store: ArtifactStore) -> tuple[AttemptRecord, ...]:
    return () if gate.record is None else Attempts.from_json(reaching(fetch, store, gate.record)).attempts
