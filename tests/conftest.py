"""What every test may ask for."""

import gc

import pytest

pytest.register_assert_rewrite("tests.contract")  # the suites there are no test modules by name

pytest_plugins = [
    "tests.servers.fixtures_ceph",
    "tests.servers.fixtures_postgres",
    "tests.servers.fixtures_rabbitmq",
]


def pytest_collection_finish() -> None:
    """Spare the collector what stays until the end anyway: libraries, test modules, collected tests.

    Looking through all of it again and again took up to a fifth of the unit tests' time. What tests make is collected
    as ever.
    """
    gc.collect()
    gc.freeze()
