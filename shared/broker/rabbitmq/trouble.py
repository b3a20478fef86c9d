"""Puts pika's and RabbitMQ's troubles into our words and classes."""

from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorPhaseErrorBase
from pika.exceptions import (
    AMQPConnectionError,
    AMQPHeartbeatTimeout,
    ChannelClosed,
    ConnectionClosed,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from shared.contracts.errors import DoctorGenError, Permanent, Transient

ACCESS_REFUSED = 403
PRECONDITION_FAILED = 406


def describe(error: BaseException) -> str:
    """Say in one line what happened to a connection or channel; never holds credentials."""
    cause = _innermost(error)
    if isinstance(cause, (ConnectionClosed, ChannelClosed)):
        return f"{cause.reply_code} {cause.reply_text}"
    if isinstance(cause, ProbableAuthenticationError):
        return "the user or the password was refused"
    if isinstance(cause, ProbableAccessDeniedError):
        return "the virtual host was refused to this user"
    if isinstance(cause, AMQPHeartbeatTimeout):
        return "the server fell silent"
    return str(cause) or type(cause).__name__


def _innermost(error: BaseException) -> BaseException:
    if isinstance(error, AMQPConnectorPhaseErrorBase):
        return _innermost(error.exception)
    if isinstance(error, AMQPConnectionWorkflowFailed):
        return _innermost(error.exceptions[-1])
    if type(error) is AMQPConnectionError and error.args and isinstance(error.args[0], BaseException):
        return _innermost(error.args[0])
    return error


def refusal(error: BaseException, doing: str) -> DoctorGenError:
    """Classify why the server closed a channel on us.

    Permanent when the same request would be refused for ever (something stands with other properties, or the user
    may not do this), else Transient.
    """
    text = f"RabbitMQ refused to {doing}: {describe(error)}."
    code = error.reply_code if isinstance(error, ChannelClosed) else None
    if code == PRECONDITION_FAILED:
        return Permanent(
            f"{text} Something of that name stands with other properties: drain it, delete it "
            "(rabbitmqctl delete_queue NAME), and start again."
        )
    if code == ACCESS_REFUSED:
        return Permanent(f"{text} Give the user the permission (rabbitmqctl set_permissions), and start again.")
    return Transient(text)
