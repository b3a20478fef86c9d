"""The command line, `doctorgen`."""

import codecs
import errno
import os
import sys
from importlib import import_module
from io import TextIOWrapper

from doctor_image_gen.cli.parser import build_parser

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
SHOWN = "doctorgen.shown"
UNDECODED = range(0xDC80, 0xDD00)
"""How Python keeps the bytes of a file's name that is no text (PEP 383)."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed, 2 the input cannot be used, 130 interrupted.

    A reader that goes away early, as `head` does, ends the command without a word.

    The command's module is imported only now, so that `--help` answers at once.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        codecs.register_error(SHOWN, _shown)
        sys.stdout.reconfigure(errors=SHOWN)
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


def _shown(error: UnicodeError) -> tuple[bytes, int]:
    """What standard output cannot encode: a name's own bytes as they are, so that it stays one; else `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = map(ord, error.object[error.start : error.end])
    return bytes(letter - 0xDC00 if letter in UNDECODED else ord("?") for letter in letters), error.end
