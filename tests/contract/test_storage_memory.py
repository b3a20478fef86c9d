"""The fake keeps the real stores' contract, so that tests which use it can be believed."""

import pytest

from shared.storage.port import ArtifactStore
from tests.contract.storage_contract import StorageContract
from tests.fakes import MemoryStore


class TestMemoryStore(StorageContract):
    @pytest.fixture
    def store(self) -> ArtifactStore:
        return MemoryStore()
