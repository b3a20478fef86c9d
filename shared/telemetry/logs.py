"""Where log lines go and how they look."""

import logging
import sys


def log_to_stderr(level: int = logging.INFO) -> None:
    """One line a record: time, level, logger, message. Chatty libraries speak only when something is wrong.

    pika is not among them: the broker silences it, since it tells each lost connection ten times over.
    """
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for library in ("kombu", "amqp", "urllib3", "alembic", "absl"):
        logging.getLogger(library).setLevel(logging.WARNING)
