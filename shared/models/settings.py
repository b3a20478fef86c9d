"""Where the weights lie: `models_dir`, else `models` in `data_dir`. The same setting for workers and commands."""

from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field, field_validator

from shared.worker.settings import WorkerSettings


class ModelSettings(WorkerSettings):
    """A worker's settings, and the folders of this machine."""

    data_dir: Path = Field(
        default_factory=lambda: user_data_path("doctorgen"), description="of the embedded stack: artifacts and journal"
    )
    models_dir: Path | None = Field(default=None, description="weights; `models` in data_dir where absent")

    @field_validator("data_dir", "models_dir")
    @classmethod
    def _folder_is_absolute(cls, path: Path | None) -> Path | None:
        return path and path.expanduser().absolute()

    @property
    def models_folder(self) -> Path:
        """The folder of the weights. Need not exist."""
        return self.models_dir or self.data_dir / "models"


def models_folder() -> Path:
    """The same for an engine, which is made without arguments.

    Raises:
        InvalidInput: as of a worker's settings.
    """
    return ModelSettings.load().models_folder
