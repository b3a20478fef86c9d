"""What every test may ask for."""

import gc
from collections.abc import Generator

import pytest

pytest.register_assert_rewrite("tests.contract")  # the suites there are no test modules by name

pytest_plugins = [
    "tests.servers.fixtures_ceph",
    "tests.servers.fixtures_postgres",
    "tests.servers.fixtures_rabbitmq",
]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the collector what stays until the end anyway: libraries, test modules, collected tests.

    Looking through all of it again and again took up to a fifth of the unit tests' time. What tests make is collected
    as ever.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
