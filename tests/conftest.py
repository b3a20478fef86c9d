"""What every test may ask for."""

import pytest

pytest.register_assert_rewrite("tests.contract")  # the suites there are no test modules by name

pytest_plugins = [
    "tests.servers.fixtures_ceph",
    "tests.servers.fixtures_postgres",
    "tests.servers.fixtures_rabbitmq",
]
