"""What a process of ours writes to its log."""

import subprocess
import sys

LOSES_ITS_BROKER = """
import time
from shared.broker.open import open_broker
from shared.telemetry.logs import log_to_stderr
log_to_stderr()
broker = open_broker("amqp://127.0.0.1:1/")
subscription = broker.subscribe("q")
subscription.receive(0.5)
subscription.close()
broker.close()
"""


def test_an_attempt_to_connect_that_fails_is_one_line_and_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", LOSES_ITS_BROKER], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert lines
    assert [line for line in lines if "No connection to RabbitMQ at 127.0.0.1:1" not in line] == []
