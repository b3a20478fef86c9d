"""All settings of the product in one typed place: `doctorgen.yaml`, the environment over it."""

import logging
import os
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Self
from urllib.parse import quote

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.gateway.defaults import GenerationDefaults
from services.gateway.settings import GatewaySettings, Retention
from shared.contracts.errors import InvalidInput
from shared.models.settings import ModelSettings
from shared.storage.settings import StorageSettings
from shared.vision.photos import PhotoLimits
from shared.worker.settings import config_file

log = logging.getLogger(__name__)

PREFIX = "DOCTORGEN_"
LIKENESS_OF_A_SLIP = 0.8


class Settings(ModelSettings):
    """Of the SDK, the command line and the gateway: a worker's, and what they need beyond."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    jobs_url: SecretStr | None = Field(
        default=None, description="sqlite:/// in data_dir where absent, or postgresql://"
    )
    user_folder: Path | None = Field(default=None, description="own scenarios/, styles/, backdrops/, recipes/")
    generation: GenerationDefaults = GenerationDefaults()
    photo_limits: PhotoLimits = PhotoLimits()
    gateway: GatewaySettings = GatewaySettings()
    retention: Retention = Retention()

    @field_validator("user_folder")
    @classmethod
    def _is_absolute(cls, path: Path | None) -> Path | None:
        return path and path.expanduser().absolute()

    @classmethod
    def load(cls) -> Self:
        """The settings as file and environment give them.

        Raises:
            InvalidInput: as of a worker's settings, or a name in the environment is nearly one of a setting.
        """
        _refuse_slips(os.environ)
        return super().load()

    @property
    def embedded(self) -> bool:
        """Whether the whole pipeline runs inside this process."""
        return self.broker_url.get_secret_value().startswith("memory:")

    @property
    def stores_in_data_dir(self) -> bool:
        """Whether artifacts lie beside the journal, since nothing else is set."""
        return self.embedded and "storage" not in self.model_fields_set

    @cached_property
    def storage_or_folder(self) -> StorageSettings:
        """Where artifacts lie: as set, else beside the journal when the pipeline is embedded."""
        if self.stores_in_data_dir:
            return StorageSettings(url=(self.data_dir / "store").as_uri())
        return self.storage

    @cached_property
    def jobs_url_or_file(self) -> str:
        """Where the journal lies."""
        if self.jobs_url is not None:
            return self.jobs_url.get_secret_value()
        return f"sqlite:///{quote(str(self.data_dir / 'jobs.sqlite'))}"


class LiveDefaults:
    """The generation defaults as the settings file states them now.

    A file that has become unusable is reported once and the last good defaults stay in force: an operator's slip
    of the pen must not refuse other people's jobs.
    """

    def __init__(self, settings: Settings) -> None:
        self._defaults = settings.generation
        self._seen = _signature(config_file())

    def __call__(self) -> GenerationDefaults:
        """The defaults for the next job."""
        signature = _signature(config_file())
        if signature != self._seen:
            self._seen = signature
            try:
                self._defaults = Settings.load().generation
            except (InvalidInput, ValueError, TypeError, OSError) as error:
                log.error("the settings file cannot be used, the defaults stay as they were: %s", error)  # noqa: TRY400
        return self._defaults


def _signature(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def _refuse_slips(environment: Iterable[str]) -> None:
    """Refuse misspelt names. Those like no setting's may be anybody's: Kubernetes adds some for each service."""
    fields = Settings.model_fields
    known = [name.upper() for name in fields]
    for name, field in fields.items():
        known += [f"{name}__{inner}".upper() for inner in getattr(field.annotation, "model_fields", ())]
    for name in environment:
        prefix, bare = name.upper()[: len(PREFIX)], name.upper()[len(PREFIX) :]
        if prefix != PREFIX or bare == "CONFIG" or bare.partition("__")[0].lower() in fields:
            continue
        near = get_close_matches(bare, known, n=1, cutoff=LIKENESS_OF_A_SLIP)
        if near:
            raise InvalidInput(name, "there is no such setting", f"Did you mean {PREFIX}{near[0]}?")
