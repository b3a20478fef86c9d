"""What `doctorgen` understands."""

import argparse
from typing import TypeAlias

STAGES = ("identity", "generate", "swap", "refine", "upscale", "qa")
ALL_STAGES = "all"
JSON = "write JSON, for programs"


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar. Each command names its handler as "module:function" under doctor_image_gen.cli."""
    parser = argparse.ArgumentParser(
        prog="doctorgen", description="Photorealistic, identity-preserving portraits of doctors."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _generate(commands)
    _submit(commands)
    _jobs(commands)
    _batches(commands)
    _dead(commands)
    _subjects(commands)
    _processes(commands)
    _catalogues(commands)
    _models(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no public name


class _Version(argparse.Action):
    """Looked up only when asked for: that takes as long as all of `--help`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415 - as the docstring says

        print(f"{parser.prog} {version('doctor-image-gen')}")  # noqa: T201 - a command line speaks
        parser.exit()


def _generate(commands: Commands) -> None:
    command = commands.add_parser("generate", help="make one picture, or one a scenario, and wait for it")
    command.set_defaults(handler="generate:generate")
    _request_arguments(command, photos_required=False)
    command.add_argument(
        "--batch", action="extend", nargs="+", metavar="SCENARIO", help="several scenarios of the same doctor"
    )
    command.add_argument(
        "--output", type=_name, metavar="FILE", help="where the picture goes (with --batch: use --output-dir)"
    )
    command.add_argument("--output-dir", type=_name, metavar="FOLDER", help="where the pictures of --batch go")
    command.add_argument("--list-scenarios", action="store_true", help="list the scenarios and end")
    command.add_argument("--json", action="store_true", help="print the outcome as JSON and no progress bars")


def _submit(commands: Commands) -> None:
    command = commands.add_parser("submit", help="file a job and print its id")
    command.set_defaults(handler="jobs:submit")
    _request_arguments(command, photos_required=True)
    command.add_argument("--idempotency-key", metavar="KEY", help="file at most one job for this key")


def _name(word: str) -> str:
    """Of a file or folder. An empty word would be the working folder, and is a variable that nobody has set."""
    if not word:
        raise argparse.ArgumentTypeError("the name is empty; is a variable of the shell not set?")
    return word


def _request_arguments(command: argparse.ArgumentParser, *, photos_required: bool) -> None:
    command.add_argument(
        "--doctor-image",
        action="extend",
        nargs="+",
        type=_name,
        metavar="PHOTO",
        required=photos_required,
        help="one to five photos of one person",
    )
    command.add_argument(
        "--image",
        action="extend",
        nargs="+",
        metavar="NAME=FILE",
        default=[],
        help="pictures that the recipe reads beside the photos, as pose=standing.png",
    )
    command.add_argument("--scenario", metavar="NAME", required=photos_required, help="see `doctorgen scenarios`")
    command.add_argument("--style", metavar="NAME", help="photography style; see `doctorgen scenarios`")
    command.add_argument("--prompt", metavar="WORDS", default="", help="your own words for the picture")
    command.add_argument("--subject", metavar="ID", help="who the person is in your records")
    command.add_argument("--consent", metavar="BASIS", help="the consent that the photos rest on")
    command.add_argument(
        "--attribute",
        action="extend",
        nargs="+",
        metavar="NAME=VALUE",
        default=[],
        help="gender, age, speciality, appearance, attire",
    )
    command.add_argument(
        "--face",
        action="extend",
        nargs="+",
        type=int,
        metavar="N",
        default=[],
        help="which face is meant, photo by photo; 1 is the leftmost",
    )
    command.add_argument("--recipe", metavar="NAME", help="see `doctorgen recipes`")
    command.add_argument("--engine", metavar="NAME", help="portable needs no GPU")
    command.add_argument("--seed", type=int, metavar="N", help="0 to 4294967295; derived from the request if absent")
    command.add_argument(
        "--attempts", type=int, metavar="N", help="at a picture that passes, 1 to 8; the recipe's number if absent"
    )
    command.add_argument(
        "--max-cost", type=float, metavar="USD", help="no further attempt that would cost the job more"
    )
    command.add_argument(
        "--set", action="extend", nargs="+", metavar="STEP.PARAM=VALUE", default=[], help="parameters of single steps"
    )
    command.add_argument(
        "--priority",
        choices=("interactive", "bulk"),
        default="interactive",
        help="interactive where absent; bulk lets interactive jobs overtake it",
    )
    command.add_argument("--deadline", type=float, metavar="SECONDS", help="give up when it takes longer")


def _jobs(commands: Commands) -> None:
    watch = commands.add_parser("watch", help="follow a job until it ends")
    watch.set_defaults(handler="jobs:watch")
    watch.add_argument("job_id")
    watch.add_argument("--json", action="store_true", help="print events as JSON lines")

    status = commands.add_parser("status", help="show a job, or list the newest")
    status.set_defaults(handler="jobs:status")
    status.add_argument("job_id", nargs="?", help="list the newest where absent")
    status.add_argument("--limit", type=int, default=20, metavar="N", help="of the list; 20 where absent")
    status.add_argument("--json", action="store_true", help=JSON)

    result = commands.add_parser("result", help="fetch a finished job's picture and its metadata")
    result.set_defaults(handler="jobs:result")
    result.add_argument("job_id")
    result.add_argument("--output", type=_name, metavar="FILE", help="write the picture there")

    cancel = commands.add_parser("cancel", help="tell the workers that a job is no longer wanted")
    cancel.set_defaults(handler="jobs:cancel")
    cancel.add_argument("job_id")


def _group(commands: Commands, name: str, explanation: str) -> Commands:
    """A command that has commands of its own."""
    return commands.add_parser(name, help=explanation).add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )


def _batches(commands: Commands) -> None:
    batch = _group(commands, "batch", "file many jobs as one, and follow them")

    submit = batch.add_parser("submit", help="file every doctor of a list in every scenario, print the batch's id")
    submit.set_defaults(handler="batch:submit")
    submit.add_argument("file", metavar="FILE", help="a YAML or JSON list; docs/batches.md has an example")
    submit.add_argument("--batch-id", metavar="ID", help="goes before the one in the file")

    for name, explanation in (("status", "show how a batch stands"), ("watch", "follow a batch until it ends")):
        command = batch.add_parser(name, help=explanation)
        command.set_defaults(handler=f"batch:{name}")
        command.add_argument("batch_id")
        command.add_argument("--json", action="store_true", help=JSON)


def _dead(commands: Commands) -> None:
    dead = _group(commands, "dead", "look at what could not be worked off, replay or discard it")

    listing = dead.add_parser("list", help="list causes, the most frequent first")
    listing.set_defaults(handler="dead:show_list")
    _letter_filter(listing, with_state=True)
    listing.add_argument("--each", action="store_true", help="list single letters, the oldest first")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="of --each; 100 where absent")
    listing.add_argument("--json", action="store_true", help=JSON)

    show = dead.add_parser("show", help="explain one letter")
    show.set_defaults(handler="dead:show")
    show.add_argument("letter_or_job", metavar="LETTER_OR_JOB")
    show.add_argument("--json", action="store_true", help=JSON)

    replay = dead.add_parser("replay", help="have letters worked off again")
    replay.set_defaults(handler="dead:replay")
    _letter_choice(replay)
    replay.add_argument("--from-step", metavar="STEP", help="start at this step, which is before the one that failed")
    replay.add_argument(
        "--set", action="extend", nargs="+", metavar="STEP.PARAM=VALUE", default=[], help="other parameters"
    )
    replay.add_argument("--dry-run", action="store_true", help="only say what would be done")
    replay.add_argument("--rate", type=float, metavar="N", help="at most N letters a second")
    replay.add_argument("--wait", action="store_true", help="until the replayed jobs have ended")
    replay.add_argument("--json", action="store_true", help="print outcomes as JSON lines")

    discard = dead.add_parser("discard", help="have done with letters; they can still be shown")
    discard.set_defaults(handler="dead:discard")
    _letter_choice(discard)

    export = dead.add_parser("export", help="write letters as JSON lines")
    export.set_defaults(handler="dead:export")
    export.add_argument("file", metavar="FILE", help="- is standard output")
    _letter_filter(export, with_state=True)

    importing = dead.add_parser("import", help="file letters from JSON lines")
    importing.set_defaults(handler="dead:import_")
    importing.add_argument("file", metavar="FILE", help="- is standard input")


def _letter_choice(command: argparse.ArgumentParser) -> None:
    command.add_argument("letter_or_job", nargs="*", metavar="LETTER_OR_JOB", help="ids; or else a filter, or --all")
    command.add_argument("--all", action="store_true", help="all open letters")
    command.add_argument("--yes", action="store_true", help="do not ask")
    _letter_filter(command, with_state=False)


def _letter_filter(command: argparse.ArgumentParser, *, with_state: bool) -> None:
    only = command.add_argument_group("filter", "only letters that agree with all of these")
    only.add_argument("--stage", choices=(*STAGES, "intake", "journal"), help="where it died")
    only.add_argument("--step", metavar="NAME", help="at which step of the recipe")
    only.add_argument("--kind", metavar="CLASS", help="of the error, as Permanent")
    only.add_argument("--fingerprint", metavar="ID", help="of the cause, as `dead list` shows it")
    only.add_argument("--job", dest="job_id", metavar="ID", help="of this job")
    only.add_argument("--batch", dest="batch_id", metavar="ID", help="of this batch's jobs")
    only.add_argument("--caller", metavar="ID", help="of this caller's jobs")
    only.add_argument("--subject", metavar="ID", help="of this person's jobs")
    if with_state:
        only.add_argument("--state", choices=("open", "replayed", "discarded", "any"), help="open where absent")


def _subjects(commands: Commands) -> None:
    subject = _group(commands, "subject", "see or erase everything of a person")
    for name, explanation in (
        ("show", "list what there is of a person"),
        ("erase", "remove everything of a person, for good"),
        ("allow", "take in a person who was erased"),
    ):
        command = subject.add_parser(name, help=explanation)
        command.set_defaults(handler=f"subject:{name}")
        command.add_argument("subject", metavar="SUBJECT")
        if name == "erase":
            command.add_argument("--yes", action="store_true", help="do not ask")
        if name != "allow":
            command.add_argument("--json", action="store_true", help=JSON)

    retention = _group(commands, "retention", "delete what has been kept long enough")
    run = retention.add_parser("run", help="delete now what the settings give a time; the gateway does so every hour")
    run.set_defaults(handler="subject:retain")
    run.add_argument("--json", action="store_true", help=JSON)


def _processes(commands: Commands) -> None:
    worker = commands.add_parser("worker", help="run the workers of one or several stages until told to end")
    worker.set_defaults(handler="processes:worker")
    worker.add_argument("stages", nargs="+", metavar="STAGE", choices=(*STAGES, ALL_STAGES), help="%(choices)s")

    gateway = commands.add_parser("gateway", help="run intake and journal until told to end")
    gateway.set_defaults(handler="processes:gateway")

    check = commands.add_parser("check", help="is everything installed and reachable?")
    check.set_defaults(handler="check:check")
    check.add_argument("--engine", metavar="NAME", help="build this one; the settings' engine where absent")


def _catalogues(commands: Commands) -> None:
    for name, explanation in (("scenarios", "list scenarios and styles"), ("recipes", "list recipes and their steps")):
        command = commands.add_parser(name, help=explanation)
        command.set_defaults(handler=f"catalogues:{name}")
        command.add_argument("--json", action="store_true", help=JSON)


def _models(commands: Commands) -> None:
    models = _group(commands, "models", "see, download and check the weights of the GPU engines")

    listing = models.add_parser("list", help="list the weights there are, and which of them are on this machine")
    listing.set_defaults(handler="models:show_list")
    listing.add_argument("--json", action="store_true", help=JSON)

    check = models.add_parser("check", help="say what a recipe still needs on this machine")
    check.set_defaults(handler="models:check")
    check.add_argument("recipe", metavar="RECIPE", help="see `doctorgen recipes`")
    check.add_argument("--engine", metavar="NAME", help="the recipe's GPU engine where absent")
    check.add_argument("--json", action="store_true", help=JSON)

    plan = models.add_parser("plan", help="say what a recipe's steps would have in memory on a GPU of any size")
    plan.set_defaults(handler="plan:show")
    plan.add_argument("recipe", metavar="RECIPE", nargs="?", default="portrait", help="portrait where absent")
    plan.add_argument("--vram", metavar="GB", type=float, help="of 10^9 bytes; as set, else what this GPU has free")
    plan.add_argument("--ram", metavar="GB", type=float, help="free host memory; this machine's where absent")
    plan.add_argument("--engine", metavar="NAME", help="the recipe's GPU engine where absent")
    plan.add_argument("--json", action="store_true", help=JSON)

    download = models.add_parser("download", help="download weights; goes on where an earlier download ended")
    download.set_defaults(handler="models:download")
    download.add_argument("names", nargs="+", metavar="NAME")
    download.add_argument("--repin", action="store_true", help="accept files that differ from those seen before")

    verify = models.add_parser("verify", help="compare every file's digest with the one pinned")
    verify.set_defaults(handler="models:verify")
    verify.add_argument("names", nargs="*", metavar="NAME", help="all that are there where absent")

    convert = models.add_parser("convert", help="turn pickles into safetensors, unpack archives")
    convert.set_defaults(handler="models:convert")
    convert.add_argument("names", nargs="+", metavar="NAME")

    where = models.add_parser("where", help="print the models folder, or where a weight's files lie")
    where.set_defaults(handler="models:where")
    where.add_argument("name", nargs="?", metavar="NAME")

    tiny = models.add_parser("tiny", help="make models of random numbers, a few megabytes, to try an installation")
    tiny.set_defaults(handler="models:tiny")
    tiny.add_argument("folder", nargs="?", metavar="FOLDER", help="the models folder where absent")
