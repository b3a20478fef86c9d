"""What a worker must be told: where the broker and the store are, what its hour costs, how it retries.

Read from the environment (`DOCTORGEN_BROKER_URL`, `DOCTORGEN_STORAGE__URL`, …), then from `doctorgen.yaml` in the
working folder or the file that `DOCTORGEN_CONFIG` names.
"""

import os
import re
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)
from yaml import YAMLError

from shared.contracts.base import invalid_input
from shared.contracts.errors import InvalidInput
from shared.storage.settings import StorageSettings
from shared.worker.limits import WorkerLimits
from shared.worker.retry import RetryPolicy

CONFIG = "DOCTORGEN_CONFIG"


def config_file() -> Path:
    """The settings file: `DOCTORGEN_CONFIG`, or `doctorgen.yaml` in the working folder. Need not exist."""
    return Path(os.environ.get(CONFIG, "doctorgen.yaml"))


class WorkerSettings(BaseSettings):
    """Of one worker process. Sections of the file that are not a worker's are left to others."""

    model_config = SettingsConfigDict(env_prefix="DOCTORGEN_", env_nested_delimiter="__", extra="ignore", frozen=True)

    broker_url: SecretStr = Field(SecretStr("memory://"), description="amqp://… or memory://")
    storage: StorageSettings = StorageSettings()
    retry: RetryPolicy = RetryPolicy()
    worker_usd_per_hour: Annotated[float, Field(ge=0)] = 4.04
    limits: WorkerLimits = WorkerLimits()
    beat_interval_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    health_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="/live and /ready over HTTP; 0: any free port"
    )
    health_host: str = Field(default="127.0.0.1", description="where to listen; in a container 0.0.0.0")
    warm_engines: tuple[str, ...] = Field(default=("portable",), description="made ready before a worker says so")
    shutdown_grace_s: Annotated[float, Field(ge=0, le=3600)] = 30.0

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings passes it by name
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed in, then the environment, then the file."""
        return init_settings, env_settings, _File(settings_cls, yaml_file=config_file())

    @classmethod
    def load(cls) -> Self:
        """The settings as file and environment give them.

        Raises:
            InvalidInput: a setting is unknown or out of range, or the file is missing though named, or no YAML.
        """
        if CONFIG in os.environ and not config_file().is_file():
            raise InvalidInput(CONFIG, f"there is no file '{config_file()}'", "Name the settings file.")
        try:
            return cls()
        except ValidationError as error:
            raise invalid_input(error, "settings", cls) from error
        except SettingsError as error:
            field = re.search(r'field "(\w+)"', str(error))
            raise InvalidInput(
                f"DOCTORGEN_{field[1].upper()}" if field else "settings",
                "it is no JSON",
                'Write a list as ["flux"]; of a section set single fields, as DOCTORGEN_STORAGE__URL does.',
            ) from error
        except (YAMLError, UnicodeDecodeError, OSError) as error:
            raise InvalidInput(str(config_file()), f"this is not YAML: {error}", "Mend the file.") from error


class _File(YamlConfigSettingsSource):
    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        document: object = super()._read_file(file_path)
        if not isinstance(document, dict):
            raise InvalidInput(
                str(file_path), "it is no list of `name: value` lines", "docs/operate.md has an example."
            )
        return document
