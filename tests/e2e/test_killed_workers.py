"""kill -9 of a worker in each gap of a step's life: the job still ends once, and only the killed step runs twice."""

from collections import Counter
from pathlib import Path

import pytest

from doctor_image_gen.client import Client
from doctor_image_gen.generator import requests_for
from doctor_image_gen.options import GenerationOptions
from doctor_image_gen.stack import Connections
from shared.contracts.event import Event
from tests.e2e.deployment import LIMIT_S, Deployment

STAGE, STEP = "refine", "refine"
SIGKILLED = -9


@pytest.mark.parametrize(
    ("phase", "computed"),
    [("computed", 2), ("artifacts", 2), ("manifest", 1), ("published", 1), ("settling", 1)],
    ids=["before-artifact", "after-artifact", "after-manifest", "after-publish", "before-ack"],
)
def test_a_job_survives_a_killed_worker(deployment: Deployment, photo: Path, phase: str, computed: int) -> None:
    assert deployment.processes[STAGE].terminate() == 0
    doomed = deployment.start(STAGE, "tests.e2e.killable", STAGE, phase)
    doomed.wait_until_ready()

    connections = Connections.open(deployment.settings)
    client = Client(connections, deployment.settings.photo_limits)
    options = GenerationOptions.parse({"refine.grain": 0.5 + len(phase) / 100})
    (request,) = requests_for(client, [photo], ["lab_coat_portrait"], {"subject": f"killed-{phase}"}, options)
    events: list[Event] = []
    revived = False

    def tell(event: Event) -> None:
        nonlocal revived
        events.append(event)
        if event.step == STEP and event.kind == "started" and not revived:
            revived = True
            assert doomed.wait() == SIGKILLED
            deployment.start(STAGE, f"services.{STAGE}").wait_until_ready()

    (job,) = client.submit_and_follow([request], tell, LIMIT_S)
    journal = connections.jobs.events(job.job_id)
    connections.close()

    assert revived
    assert job.state == "done"
    started = Counter(event.step for event in events if event.kind == "started")
    assert started == {step.step: computed if step.step == STEP else 1 for step in job.steps}
    assert [event.kind for event in journal].count("done") == 1
    assert [event.kind for event in journal].count("accepted") == 1
