"""What the environment selects."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import plugin


@pytest.fixture
def collected():
    """Chooses among tests that want something and one that does not: what is left, what is not."""

    def collect():
        items: list[Any] = [
            SimpleNamespace(name=name, get_closest_marker=lambda mark, name=name: mark == name)
            for name in ("pgbouncer", "schemathesis", "other")
        ]
        gone: list[Any] = []

        def deselect(items):  # pytest's hooks take their arguments by name
            gone.extend(items)

        config: Any = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=deselect))
        plugin.pytest_collection_modifyitems(config, items)
        return [item.name for item in items], [item.name for item in gone]

    return collect


@pytest.fixture(autouse=True)
def _nothing_wanted(monkeypatch):
    for name in ("TEST_PGBOUNCER", "TEST_SCHEMATHESIS"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_not_asked_for_is_deselected(collected):
    assert collected() == (["other"], ["pgbouncer", "schemathesis"])


def test_with_pgbouncer_its_tests_run(monkeypatch, collected):
    monkeypatch.setenv("TEST_PGBOUNCER", sys.executable)
    assert plugin.pgbouncer() == Path(sys.executable)
    assert collected() == (["pgbouncer", "other"], ["schemathesis"])


def test_with_schemathesis_its_tests_run(monkeypatch, collected):
    monkeypatch.setenv("TEST_SCHEMATHESIS", "1")
    assert collected() == (["schemathesis", "other"], ["pgbouncer"])


def test_a_pgbouncer_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TEST_PGBOUNCER", f"{tmp_path}/pgbouncer")
    with pytest.raises(pytest.UsageError, match=f"TEST_PGBOUNCER={tmp_path}/pgbouncer"):
        plugin.pgbouncer()
