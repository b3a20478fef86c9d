"""All settings of the product in one typed place: `doctorgen.yaml`, the environment over it."""

import logging
from functools import cached_property
from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.gateway.defaults import GenerationDefaults
from shared.contracts.errors import InvalidInput
from shared.storage.settings import StorageSettings
from shared.vision.photos import PhotoLimits
from shared.worker.settings import WorkerSettings, config_file

log = logging.getLogger(__name__)


class Settings(WorkerSettings):
    """Of the SDK, the command line and the gateway: a worker's, and what they need beyond."""

    model_config = SettingsConfigDict(env_prefix="DOCTORGEN_", env_nested_delimiter="__", extra="forbid", frozen=True)

    data_dir: Path = Field(
        default_factory=lambda: user_data_path("doctorgen"), description="of the embedded stack: artifacts and journal"
    )
    jobs_url: SecretStr | None = Field(
        default=None, description="sqlite:/// in data_dir where absent, or postgresql://"
    )
    user_folder: Path | None = Field(default=None, description="own scenarios/, styles/, backdrops/, recipes/")
    generation: GenerationDefaults = GenerationDefaults()
    photo_limits: PhotoLimits = PhotoLimits()

    @property
    def embedded(self) -> bool:
        """Whether the whole pipeline runs inside this process."""
        return self.broker_url.get_secret_value().startswith("memory:")

    @cached_property
    def storage_or_folder(self) -> StorageSettings:
        """Where artifacts lie: as set, else beside the journal when the pipeline is embedded."""
        if "storage" in self.model_fields_set or not self.embedded:
            return self.storage
        return StorageSettings(url=f"file://{(self.data_dir / 'store').absolute()}")

    @cached_property
    def jobs_url_or_file(self) -> str:
        """Where the journal lies."""
        if self.jobs_url is not None:
            return self.jobs_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'jobs.sqlite').absolute()}"


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
            except InvalidInput:
                log.exception("the settings file cannot be used; the defaults stay as they were")
        return self._defaults


def _signature(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size
