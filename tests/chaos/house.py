"""Where a chaos run lives: real servers, the proxies between them and the pipeline, and what its processes are told."""

import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from services.gateway.defaults import GenerationDefaults
from shared.storage.settings import StorageSettings
from shared.vision.photos import PhotoLimits
from tests.chaos.stages import RECIPE_NAME
from tests.servers.ceph import CephS3, S3Account
from tests.servers.postgres import Postgres, start_postgres
from tests.servers.proxy import FaultyProxy
from tests.servers.rabbitmq import RabbitNode
from tests.servers.scripted_http import ScriptedServer, s3_error

STEP_DEADLINE_S = 20.0
SIDES = 2
"""Processes reach broker and storage through one of two proxies each, so that a fault may hit half of them."""

LIMITS = PhotoLimits(min_side_px=64)
STORAGE_PATIENCE = {"connect_timeout_s": 1.0, "read_timeout_s": 2.0, "retries": 1}


@dataclass(frozen=True)
class House:
    """The servers, the proxies by side, and the folder of the run."""

    folder: Path
    rabbit: RabbitNode
    virtual_host: str
    ceph: CephS3
    account: S3Account
    postgres: Postgres
    database: str
    bucket: str
    broker_proxies: tuple[FaultyProxy, ...]
    storage_proxies: tuple[FaultyProxy, ...]
    database_proxies: tuple[FaultyProxy, ...]
    broken_storage: int

    @property
    def ledger(self) -> Path:
        """Where the processes of the run keep account."""
        return self.folder / "ledger.jsonl"

    @property
    def settings(self) -> Settings:
        """The way past the proxies, for those who judge."""
        return self._settings(self.rabbit.port, self.ceph.port, self.postgres.port)

    def settings_of(self, side: int) -> Settings:
        """The way through the proxies of one side."""
        return self._settings(
            self.broker_proxies[side].port, self.storage_proxies[side].port, self.database_proxies[side].port
        )

    def environment(self, side: int) -> Mapping[str, str]:
        """The settings of a side as environment variables."""
        settings = self.settings_of(side)
        return {
            "DOCTORGEN_BROKER_URL": settings.broker_url.get_secret_value(),
            "DOCTORGEN_STORAGE__URL": settings.storage.url,
            "DOCTORGEN_STORAGE__ACCESS_KEY": self.account.access_key,
            "DOCTORGEN_STORAGE__SECRET_KEY": self.account.secret_key,
            **{f"DOCTORGEN_STORAGE__{name.upper()}": str(value) for name, value in STORAGE_PATIENCE.items()},
            "DOCTORGEN_JOBS_URL": settings.jobs_url_or_file,
            "DOCTORGEN_BEAT_INTERVAL_S": "1.0",
            "DOCTORGEN_GATEWAY__RESCUE_PERIOD_S": "3.0",
            "DOCTORGEN_GATEWAY__WORKER_SILENT_AFTER_S": "8.0",
            "DOCTORGEN_LIMITS__STEP_DEADLINE_S": str(STEP_DEADLINE_S),
            "DOCTORGEN_DATA_DIR": str(self.folder / "data"),
            "DOCTORGEN_CONFIG": str(self.folder / "empty.yaml"),
            "DOCTORGEN_GENERATION__RECIPE": RECIPE_NAME,
            "DOCTORGEN_PHOTO_LIMITS__MIN_SIDE_PX": str(LIMITS.min_side_px),
        }

    def lose_the_brokers_disk(self) -> None:
        """Kill the broker, lose all that it had, start it, and lay out its exchanges and queues again."""
        self.rabbit.kill()
        self.rabbit.lose_disk()
        self.rabbit.start()
        self.rabbit.make_virtual_host(self.virtual_host)
        Connections.open(self.settings).close()

    def messages(self) -> dict[str, int]:
        """How many messages wait or are in somebody's hands, by queue; the queues of listeners are not asked."""
        listed = self.rabbit.control(
            "list_queues", "--quiet", "--formatter=json", "-p", self.virtual_host, "name", "durable", "messages"
        )
        return {
            queue["name"]: queue["messages"] for queue in json.loads(listed) if queue["durable"] and queue["messages"]
        }

    def _settings(self, broker_port: int, storage_port: int, database_port: int) -> Settings:
        return Settings(
            broker_url=SecretStr(self.rabbit.url_of(self.virtual_host, port=broker_port)),
            storage=StorageSettings(
                url=f"s3://{self.bucket}?endpoint=127.0.0.1:{storage_port}&secure=false",
                access_key=SecretStr(self.account.access_key),
                secret_key=SecretStr(self.account.secret_key),
                **STORAGE_PATIENCE,
            ),
            jobs_url=SecretStr(self.database.replace(f":{self.postgres.port}/", f":{database_port}/")),
            data_dir=self.folder / "data",
            generation=GenerationDefaults(recipe=RECIPE_NAME),
            photo_limits=LIMITS,
        )


@contextmanager
def own_house(folder: Path | None) -> Iterator[House]:
    """A house with servers of its own, all ended afterwards. What was written stays where a folder is named."""
    with ExitStack() as opened:
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True)
            folder = Path(opened.enter_context(temporary))
        for name in ("rabbitmq", "ceph", "run"):
            (folder / name).mkdir(parents=True)
        postgres = start_postgres()
        opened.callback(postgres.stop)
        ceph = CephS3(folder / "ceph")
        opened.callback(ceph.stop)
        account = ceph.start()
        rabbit = RabbitNode(folder / "rabbitmq")
        opened.callback(rabbit.stop)
        rabbit.start()
        yield opened.enter_context(house_on(rabbit, ceph, account, postgres, folder / "run"))


@contextmanager
def house_on(rabbit: RabbitNode, ceph: CephS3, account: S3Account, postgres: Postgres, folder: Path) -> Iterator[House]:
    """A house on servers that run already, with a virtual host and a database of its own."""
    (folder / "empty.yaml").touch()
    with ExitStack() as opened:
        virtual_host = opened.enter_context(rabbit.virtual_host())
        broken = opened.enter_context(ScriptedServer(lambda _: s3_error(503, "SlowDown", "chaos")))
        yield House(
            folder=folder,
            rabbit=rabbit,
            virtual_host=virtual_host,
            ceph=ceph,
            account=account,
            postgres=postgres,
            database=postgres.create_database(),
            bucket=f"chaos-{secrets.token_hex(4)}",
            broker_proxies=tuple(opened.enter_context(FaultyProxy(rabbit.port)) for _ in range(SIDES)),
            storage_proxies=tuple(opened.enter_context(FaultyProxy(ceph.port)) for _ in range(SIDES)),
            database_proxies=tuple(opened.enter_context(FaultyProxy(postgres.port)) for _ in range(SIDES)),
            broken_storage=int(broken.endpoint.rpartition(":")[2]),
        )
