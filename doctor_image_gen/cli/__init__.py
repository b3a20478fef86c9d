"""The command line, `doctorgen`."""

import errno
import os
import sys
from importlib import import_module
from io import TextIOWrapper

from doctor_image_gen.cli.parser import build_parser

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed, 2 the input cannot be used, 130 interrupted.

    A reader that goes away early, as `head` does, ends the command without a word.

    The command's module is imported only now, so that `--help` answers at once.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # a terminal without our arrows, or a name that is no text, is no error
    namespace = build_parser().parse_args(arguments)
    from shared.contracts.errors import DoctorGenError, InvalidInput  # noqa: PLC0415 - as the docstring says

    module, _, function = namespace.handler.partition(":")
    try:
        status: int = getattr(import_module(f"doctor_image_gen.cli.{module}"), function)(namespace)
        sys.stdout.flush()
    except InvalidInput as error:
        print(f"doctorgen: {error}", file=sys.stderr)  # noqa: T201 - a command line speaks
        return MISUSED
    except DoctorGenError as error:
        print(f"doctorgen: {error}", file=sys.stderr)  # noqa: T201 - the same
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        if error.filename is None and error.errno not in NO_ROOM:
            raise  # no matter of this machine's files: the traceback says more
        what = "" if error.filename is None else f"{error.filename}: "
        print(f"doctorgen: {what}{error.strerror}. Mend that, or name another place.", file=sys.stderr)  # noqa: T201 - the same
        return FAILED
    return status
