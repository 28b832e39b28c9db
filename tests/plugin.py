"""Brings up what the tests talk to, before pytest-django reads the settings.

TEST_DATABASE      postgres (default), mariadb or sqlite: the vendor of the `default` database
TEST_POSTGRES_URL  a server to use instead of the embedded PostgreSQL
TEST_MARIADB_URL   the server for TEST_DATABASE=mariadb
TEST_REDIS_URL     a numbered database, emptied by tests, instead of the embedded Redis
AMQP_URL           a RabbitMQ as Celery's broker, instead of another embedded Redis; the tests that
                   have to do with a broker are chosen by `-m broker`
TEST_PGBOUNCER     the path of PgBouncer's binary; the tests marked `pgbouncer` are deselected
                   without it, and are chosen alone by `-m pgbouncer`
TEST_CHROMIUM      the path of Chromium's binary; the same for the tests marked `browser`
TEST_SCHEMATHESIS  1: schemathesis asks the sample's services; the tests marked `schemathesis` take
                   a minute, so they are deselected without it, and chosen by `-m schemathesis`

Where pytest-xdist shares the tests among processes, each has servers of its own.
"""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from enrollment_demo.servers import Postgres, Redis

pytest_plugins = ["tests.worked.fixtures", "tests.worked.messages"]

VENDORS = ("postgres", "mariadb", "sqlite")
#: The fixtures that give a test a broker.
BROKERS = frozenset({"broker", "breakable_broker"})


def database_url(vendor: str, stack: ExitStack) -> str:
    """The URL of the chosen vendor's database; what was started for it ends with the stack."""
    if vendor == "sqlite":
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sqlite-"))
        return f"sqlite:///{Path(directory, 'default.sqlite3')}"
    if vendor not in VENDORS:
        raise pytest.UsageError(f"TEST_DATABASE={vendor}: not one of {', '.join(VENDORS)}")
    if url := os.environ.get(f"TEST_{vendor.upper()}_URL"):
        return url
    if vendor == "mariadb":
        raise pytest.UsageError("TEST_DATABASE=mariadb needs TEST_MARIADB_URL")
    return stack.enter_context(Postgres()).url("postgres")


def redis_url(stack: ExitStack) -> str:
    """The URL of the Redis database that tests may empty."""
    given = os.environ.get("TEST_REDIS_URL")
    if given and "PYTEST_XDIST_WORKER" in os.environ:
        raise pytest.UsageError("TEST_REDIS_URL is for one process: each test empties it")
    return given or stack.enter_context(Redis()).url()


def broker_url(stack: ExitStack) -> str:
    """The URL of Celery's broker; no Redis database is shared with it, since tests empty theirs."""
    return os.environ.get("AMQP_URL") or stack.enter_context(Redis()).url()


def pgbouncer() -> Path | None:
    """PgBouncer's binary; None where this run is to do without."""
    return _program("TEST_PGBOUNCER")


def chromium() -> Path | None:
    """Chromium's binary; None where this run is to do without."""
    return _program("TEST_CHROMIUM")


def _program(variable: str) -> Path | None:
    given = os.environ.get(variable)
    if not given:
        return None
    if (found := shutil.which(given)) is None:
        raise pytest.UsageError(f"{variable}={given}: no program is there")
    return Path(found).absolute()


#: Programs of the machine's, by the mark of the tests that need them.
PROGRAMS = {"pgbouncer": pgbouncer, "browser": chromium}


# A wrapper runs before every plain hook, pytest-django's too.
@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    stack = ExitStack()
    early_config.add_cleanup(stack.close)
    vendor = os.environ.setdefault("TEST_DATABASE", VENDORS[0])
    for program in PROGRAMS.values():
        program()  # a mistake is told before anything is started
    os.environ["DATABASE_URL"] = database_url(vendor, stack)
    os.environ["REDIS_URL"] = redis_url(stack)
    os.environ["CELERY_BROKER_URL"] = broker_url(stack)
    yield


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "broker: uses Celery's broker; set by the plugin")
    config.addinivalue_line("markers", "pgbouncer: starts one, where TEST_PGBOUNCER names it")
    config.addinivalue_line("markers", "browser: drives Chromium, where TEST_CHROMIUM names it")
    config.addinivalue_line("markers", "schemathesis: runs it, where TEST_SCHEMATHESIS says so")


# First, because the choice by -m is made in the same hook.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if not BROKERS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("broker")
    unwanted = {mark for mark, program in PROGRAMS.items() if program() is None}
    if os.environ.get("TEST_SCHEMATHESIS") != "1":
        unwanted.add("schemathesis")
    left_out = [item for item in items if any(map(item.get_closest_marker, unwanted))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_report_header() -> list[str]:
    return [
        f"database: {os.environ['DATABASE_URL']}",
        f"redis: {os.environ['REDIS_URL']}",
        f"broker: {os.environ['CELERY_BROKER_URL']}",
    ]
