"""Anyone may publish a job: docs/queue.md, typed with plain pika and the MinIO client."""

import json
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pika
import pytest
from minio import Minio

from doctor_image_gen import DoctorImageGenerator
from shared.storage.settings import S3Target
from tests.e2e.deployment import LIMIT_S, Deployment

TERMINAL = {"done", "refused", "dead", "cancelled", "expired"}


def publish_and_watch(deployment: Deployment, request: dict[str, Any]) -> list[dict[str, Any]]:
    """Publish the request and return its events, the last one terminal."""
    connection = pika.BlockingConnection(pika.URLParameters(deployment.broker_url))
    channel = connection.channel()
    channel.confirm_delivery()
    events = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(events, "doctorgen.events", f"job.{request['job_id']}.*")
    channel.basic_publish("doctorgen.intake", "intake", json.dumps(request).encode(), mandatory=True)
    seen: list[dict[str, Any]] = []
    for method, _, body in channel.consume(events, auto_ack=True, inactivity_timeout=LIMIT_S):
        assert method is not None, f"no event for {LIMIT_S} s after {seen}"
        seen.append(json.loads(body))
        if seen[-1]["kind"] in TERMINAL:
            break
    connection.close()
    return seen


def bucket(deployment: Deployment) -> tuple[Minio, str]:
    target = deployment.storage.target
    assert isinstance(target, S3Target)
    assert deployment.storage.access_key
    assert deployment.storage.secret_key
    keys = deployment.storage.access_key.get_secret_value(), deployment.storage.secret_key.get_secret_value()
    return Minio(target.endpoint, *keys, secure=False), target.bucket


@pytest.fixture
def uploaded(deployment: Deployment, photo: Path) -> dict[str, str]:
    client, name = bucket(deployment)
    data = photo.read_bytes()
    client.put_object(name, "inbox/jane-front.png", BytesIO(data), len(data))
    return {"key": "inbox/jane-front.png", "sha256": sha256(data).hexdigest()}


def test_a_plain_pika_publisher_gets_the_same_picture_as_the_sdk(
    deployment: Deployment, uploaded: dict[str, str], photo: Path
) -> None:
    request = {
        "schema_version": 1,
        "job_id": "order-4711",
        "subject": "dr-jane-doe",
        "consent": {"basis": "written consent"},
        "photos": [uploaded],
        "scenario": "desk_shot",
    }
    events = publish_and_watch(deployment, request)
    assert events[0]["kind"] == "accepted"
    assert events[-1]["kind"] == "done", events[-1]
    assert max(len(json.dumps(event)) for event in events) < 16 * 1024

    client, name = bucket(deployment)
    picture = client.get_object(name, events[-1]["result"]["image"]["key"]).data
    output = deployment.folder / "desk.png"
    with DoctorImageGenerator(deployment.settings) as generator:
        settings = {"timeout_s": 120.0}
        generator.generate(photo, "desk_shot", settings=settings, subject="somebody-else", output_path=output)
    assert output.read_bytes() == picture


def test_a_request_that_cannot_be_used_is_refused_with_field_finding_and_mend(
    deployment: Deployment, uploaded: dict[str, str]
) -> None:
    request = {"job_id": "order-4712", "subject": "dr-jane-doe", "photos": [uploaded], "scenario": "dest_shot"}
    refused = publish_and_watch(deployment, request)[-1]
    assert refused["kind"] == "refused"
    assert refused["error"]["field"] == "scenario"
    assert "desk_shot" in refused["error"]["hint"]


def test_the_command_line_tells_of_a_job_that_another_client_filed(
    deployment: Deployment, uploaded: dict[str, str]
) -> None:
    request = {"job_id": "order-4713", "subject": "dr-jane-doe", "photos": [uploaded], "scenario": "nowhere"}
    publish_and_watch(deployment, request)
    watched = deployment.doctorgen("watch", "order-4713")
    assert watched.returncode == 1
    told = deployment.doctorgen("status", "order-4713")
    assert "refused" in told.stdout
    assert "scenario" in told.stdout
    result = deployment.doctorgen("result", "order-4713")
    assert result.returncode == 2
    assert "scenario" in result.stderr
