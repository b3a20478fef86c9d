"""How dead letters look on a terminal."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime

from rich.table import Table

from doctor_image_gen.cli.ages import age
from doctor_image_gen.dead import Shown
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.step import StepMessage
from shared.jobs.port import FiledLetter, Job, LetterGroup

WORDS_SHOWN = 100


def groups_table(groups: Iterable[LetterGroup], at: datetime) -> Table:
    """A line for each cause."""
    table = Table("stage", "error", "count", "oldest", "newest", "fingerprint", "example", box=None, pad_edge=False)
    for group in groups:
        oldest, newest = age(group.oldest, at), age(group.newest, at)
        error = f"{group.error_type}: {_short(group.example_message)}"
        table.add_row(group.stage, error, str(group.count), oldest, newest, group.fingerprint, group.example)
    return table


def letters_table(letters: Iterable[FiledLetter], at: datetime) -> Table:
    """A line for each letter."""
    table = Table("letter", "job", "step", "error", "attempts", "age", "state", box=None, pad_edge=False)
    for filed in letters:
        letter = filed.letter
        error = f"{letter.error.type}: {_short(letter.error.message)}"
        attempts, old = str(letter.attempts), age(letter.died_at, at)
        table.add_row(letter.letter_id, letter.job_id or "", letter.step or "", error, attempts, old, filed.state)
    return table


def lines_of(shown: Shown, at: datetime) -> Iterator[str]:
    """Everything about one letter."""
    filed = shown.filed
    letter = filed.letter
    settled = f" at {filed.settled_at:%Y-%m-%d %H:%M:%S} by {filed.settled_by}" if filed.settled_at else ""
    yield f"letter {letter.letter_id}: {filed.state}{settled}"
    yield from _job_lines(letter, shown.job)
    yield f"died      {letter.died_at:%Y-%m-%d %H:%M:%S} ({age(letter.died_at, at)} ago) at {letter.worker}"
    yield f"queue     {letter.queue}"
    if letter.message is not None:
        yield from _step_lines(letter, letter.message)
    yield f"attempts  {letter.attempts}"
    for name, failure in zip(("first", "last"), letter.message.failures if letter.message else (), strict=False):
        yield f"  {name:<7} {failure.at:%Y-%m-%d %H:%M:%S} {failure.worker}: {failure.error.message}"
    field = f" in {letter.error.field}" if letter.error.field else ""
    yield f"error     {letter.error.kind} ({letter.error.type}){field}: {letter.error.message}"
    if letter.body is not None:
        yield f"body      {letter.body}"
    if letter.error.traceback:
        yield "traceback"
        yield from (f"  {line}" for line in letter.error.traceback.rstrip().splitlines())
    yield "what would help"
    yield from (f"  {line}" for line in help_for(shown))
    for other in shown.others:
        yield f"the same job's: {other.letter.letter_id} ({other.state}, run {other.letter.run})"


def help_for(shown: Shown) -> Iterator[str]:
    """The remedy in words, then the commands that follow it."""
    letter = shown.filed.letter
    yield letter.error.hint
    if shown.filed.state != "open":
        yield f"This letter is {shown.filed.state}; `doctorgen status {letter.job_id or ''}` shows how its job stands."
        return
    if letter.message is not None and letter.error.kind == "InvalidInput":
        yield f"doctorgen dead replay {letter.letter_id} --set {letter.step}.PARAMETER=VALUE"
    yield f"doctorgen dead replay {letter.letter_id}"
    yield f"doctorgen dead replay --fingerprint {letter.fingerprint}    (all letters of this cause)"


def as_json(shown: Shown) -> str:
    """The same as a JSON document."""
    document = {
        "letter": shown.filed.letter.model_dump(mode="json", exclude_none=True),
        "state": shown.filed.state,
        "settled_at": shown.filed.settled_at and shown.filed.settled_at.isoformat(),
        "settled_by": shown.filed.settled_by,
        "job": shown.job and shown.job.model_dump(mode="json", exclude={"first_message"}, exclude_none=True),
        "others": [other.letter.letter_id for other in shown.others],
        "what_would_help": list(help_for(shown)),
    }
    return json.dumps(document, indent=2)


def _job_lines(letter: DeadLetter, job: Job | None) -> Iterator[str]:
    if letter.job_id is None:
        return
    stands = f"{job.state}, run {job.run}" if job else "unknown to the journal"
    yield f"job       {letter.job_id}: {stands}; subject {letter.subject}, caller {letter.caller}"
    if job is not None and job.request is not None:
        request = job.request
        style = f", style {request.photography_style}" if request.photography_style else ""
        words = f", {request.custom_prompt!r}" if request.custom_prompt else ""
        photos = "1 photo" if len(request.photos) == 1 else f"{len(request.photos)} photos"
        yield f"request   {request.scenario}, {photos}{style}{words}"


def _step_lines(letter: DeadLetter, message: StepMessage) -> Iterator[str]:
    names = [step.name for step in message.steps]
    step = next((step for step in message.steps if step.name == letter.step), message.step)
    place = f"{names.index(step.name) + 1} of {len(names)}"
    what = f"{step.operation} version {step.operation_version}, engine {step.engine}"
    yield f"step      {step.name} ({place}), run {letter.run}: {what}"
    yield f"params    {json.dumps(step.params)}"
    for name, slot in step.inputs.items():
        yield f"input     {name} = {slot}: {', '.join(letter.input_digests.get(name, ())) or 'missing'}"


def _short(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= WORDS_SHOWN else line[: WORDS_SHOWN - 1] + "…"
