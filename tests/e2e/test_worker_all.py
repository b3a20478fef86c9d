"""One process that serves all stages does whole jobs, as six processes do."""

from pathlib import Path

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.stages import STAGES
from shared.contracts.event import Event
from tests.e2e.deployment import deployed
from tests.e2e.test_erase import SMALL
from tests.servers.fixtures_ceph import S3Server
from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitNode


def test_one_process_serves_all_stages(
    rabbitmq_node: RabbitNode, s3_server: S3Server, postgres_server: Postgres, tmp_path: Path, photo: Path
) -> None:
    """The portrait in the portable engines, small. The result names every model's licence."""
    events: list[Event] = []
    with (
        rabbitmq_node.virtual_host() as vhost,
        deployed(
            rabbitmq_node.url_of(vhost),
            s3_server.settings("worker-all"),
            postgres_server.create_database(),
            tmp_path,
            workers={"all": ("doctor_image_gen.cli", "worker", "all")},
        ) as running,
        DoctorImageGenerator(running.settings) as generator,
    ):
        made = generator.generate(
            photo,
            "consultant",
            output_path=tmp_path / "picture.png",
            settings=SMALL,
            on_event=events.append,
        )
    assert made["status"] == "done"
    finished = [event for event in events if event.kind == "finished"]
    assert {event.stage for event in finished} == set(STAGES)
    assert len({event.worker.rpartition(".")[2] for event in finished}) == 1, "a worker's name ends in its process"
    metadata = made["metadata"]
    assert metadata["models"].keys() == metadata["licences"].keys()
    assert set(metadata["licences"].values()) == {"Apache-2.0", "CC0-1.0"}
