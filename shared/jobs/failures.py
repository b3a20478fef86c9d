"""Classifies what databases raise, where it enters. Statements and their parameters never reach a message."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shared.contracts.errors import DoctorGenError, Permanent, ResourceExhausted, Transient

_SQLITE: Final[dict[int, type[DoctorGenError]]] = {
    5: Transient,  # SQLITE_BUSY
    6: Transient,  # SQLITE_LOCKED
    7: ResourceExhausted,  # SQLITE_NOMEM
    10: Transient,  # SQLITE_IOERR
    13: ResourceExhausted,  # SQLITE_FULL
    15: Transient,  # SQLITE_PROTOCOL
}
"""By primary result code (https://www.sqlite.org/rescode.html)."""

_POSTGRESQL: Final[dict[str, type[DoctorGenError]]] = {
    "08": Transient,  # connection exception
    "40": Transient,  # transaction rollback: serialisation failure, deadlock
    "53": ResourceExhausted,  # insufficient resources
    "55": Transient,  # object not in prerequisite state: lock not available
    "57": Transient,  # operator intervention: shutting down, starting up
    "53300": Transient,  # too many connections
}
"""By SQLSTATE, or its class (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""


@contextmanager
def classified(what: str) -> Iterator[None]:
    """Raise what SQLAlchemy raises inside as an error of ours. `what` begins the message: "The job store"."""
    try:
        yield
    except PoolTimeout as error:
        raise Transient(f"{what} has all its connections in use.") from error
    except DBAPIError as error:
        raise class_of(error)(f"{what} does not answer as it should: {_first_line(error)}.") from error
    except SQLAlchemyError as error:
        raise Permanent(f"{what} cannot be used: {type(error).__name__}.") from error


def class_of(error: DBAPIError) -> type[DoctorGenError]:
    """The class of ours that a driver's error belongs to."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE.get(code & 0xFF, Permanent)
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return Transient if _is_about_the_connection(error) else Permanent
    return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2], Permanent)


def _is_about_the_connection(error: DBAPIError) -> bool:
    """A server that never answered sends no code; the driver calls that an operational error."""
    return error.connection_invalidated or type(error.orig).__name__ in {"OperationalError", "ConnectionTimeout"}


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).partition("\n")[0].rstrip(".")
