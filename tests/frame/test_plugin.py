"""What the environment selects."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import plugin

PROGRAMS = {"pgbouncer": "TEST_PGBOUNCER", "browser": "TEST_CHROMIUM"}


@pytest.fixture(autouse=True)
def without_programs(monkeypatch):
    for variable in (*PROGRAMS.values(), "TEST_SCHEMATHESIS"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def collected():
    """Chooses among tests that want something and one that does not: what is left, what is not."""

    def collect():
        items: list[Any] = [
            SimpleNamespace(name=name, get_closest_marker=lambda mark, name=name: mark == name)
            for name in (*PROGRAMS, "schemathesis", "other")
        ]
        gone: list[Any] = []

        def deselect(items):  # pytest's hooks take their arguments by name
            gone.extend(items)

        config: Any = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=deselect))
        plugin.pytest_collection_modifyitems(config, items)
        return [item.name for item in items], [item.name for item in gone]

    return collect


def test_what_is_not_asked_for_is_deselected(collected):
    assert collected() == (["other"], ["pgbouncer", "browser", "schemathesis"])


@pytest.mark.parametrize("mark", PROGRAMS)
def test_with_a_program_its_tests_run(monkeypatch, collected, mark):
    monkeypatch.setenv(PROGRAMS[mark], sys.executable)
    assert plugin.PROGRAMS[mark]() == Path(sys.executable)
    left, gone = collected()
    assert left == [mark, "other"]
    assert mark not in gone


def test_with_schemathesis_its_tests_run(monkeypatch, collected):
    monkeypatch.setenv("TEST_SCHEMATHESIS", "1")
    assert collected() == (["schemathesis", "other"], ["pgbouncer", "browser"])


@pytest.mark.parametrize("mark", PROGRAMS)
def test_a_program_that_is_not_there_is_named(monkeypatch, tmp_path, mark):
    variable = PROGRAMS[mark]
    monkeypatch.setenv(variable, f"{tmp_path}/program")
    with pytest.raises(pytest.UsageError, match=f"{variable}={tmp_path}/program"):
        plugin.PROGRAMS[mark]()
