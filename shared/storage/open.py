"""Opens the store that the settings name. The S3 client is imported only where it is asked for: it takes a while."""

from pydantic import SecretStr

from shared.contracts.errors import InvalidInput
from shared.storage.port import ArtifactStore
from shared.storage.settings import FolderTarget, StorageSettings


def open_store(settings: StorageSettings) -> ArtifactStore:
    """A store, ready to use: the folder or bucket made where it is missing.

    Raises:
        InvalidInput: an S3 server is named without keys.
        Transient: the server does not answer.
        Permanent: it refuses, or the folder cannot be written.
    """
    target = settings.target
    if isinstance(target, FolderTarget):
        from shared.storage.folder import FolderStore  # noqa: PLC0415 - see the module's docstring

        return FolderStore(target.root, durable=settings.durable)

    from shared.storage.s3 import S3Store  # noqa: PLC0415 - see the module's docstring

    store = S3Store(
        endpoint=target.endpoint,
        bucket=target.bucket,
        access_key=_required(settings.access_key, "access_key"),
        secret_key=_required(settings.secret_key, "secret_key"),
        secure=target.secure,
        region=target.region,
        connect_timeout_s=settings.connect_timeout_s,
        read_timeout_s=settings.read_timeout_s,
        retries=settings.retries,
    )
    if settings.create_bucket:
        store.ensure_bucket()
    return store


def _required(key: SecretStr | None, name: str) -> SecretStr:
    if key is None:
        raise InvalidInput(f"storage.{name}", "it is not set", f"Set DOCTORGEN_STORAGE__{name.upper()}.")
    return key
