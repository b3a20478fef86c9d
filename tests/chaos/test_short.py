"""The short cut of the chaos suite: a minute of everything going wrong, and every promise kept."""

from pathlib import Path

from tests.chaos.__main__ import judged
from tests.chaos.house import house_on
from tests.chaos.plan import Amounts, make_plan
from tests.chaos.stages import STAGES
from tests.servers.fixtures_ceph import S3Server
from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitNode

AMOUNTS = Amounts(
    jobs=30,
    worker_kills=12,
    broker_kills=1,
    storage_outages=1,
    network_faults=2,
    gateway_kills=1,
    drains=2,
    database_cuts=1,
    hangs=0,
    corruptions=2,
    disk_losses=0,
)


def test_every_job_is_done_once_and_unchanged_whatever_fails(
    rabbitmq_node: RabbitNode, s3_server: S3Server, postgres_server: Postgres, tmp_path: Path
) -> None:
    with house_on(rabbitmq_node, s3_server.ceph, s3_server.account, postgres_server, tmp_path) as house:
        table, broken = judged(make_plan(1, AMOUNTS, tuple(STAGES)), house)
    assert broken == [], table
