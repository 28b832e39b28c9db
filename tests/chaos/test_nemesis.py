"""A fault counts where it met somebody, and not where it only took place."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from chaos import log, nemesis
from chaos.nemesis import Nemesis
from chaos.plan import Fault
from idempotency import events


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An empty log, which this process writes as well."""
    path = tmp_path / "log.sqlite3"
    log.create(path)
    monkeypatch.setenv(log.VARIABLE, str(path))
    return path


def struck(path: Any, pause: Any) -> dict[str, int]:
    """What is counted of a Redis that hung, once, where `pause` is what happens then."""
    site: Any = SimpleNamespace(log=path, cache=SimpleNamespace(pause=pause, resume=lambda: None))
    breaks = Nemesis(site, seed=1)
    breaks.follow([Fault("redis hung", 0.0, 0.0)], time.monotonic(), lambda told: None)
    return dict(breaks.struck)


def test_a_fault_that_meets_nobody_has_not_struck(path, monkeypatch):
    monkeypatch.setattr(nemesis, "IDLE", 0.1)
    log.complained(events.CACHE_UNAVAILABLE)  # of another, ahead of it
    assert struck(path, lambda: None) == {}


def test_one_that_somebody_complains_of_has(path):
    assert struck(path, lambda: log.complained(events.CACHE_UNAVAILABLE)) == {"redis hung": 1}


def test_the_log_keeps_what_it_is_told_and_each_line_of_it(path):
    for name in ("k", "k", "l"):
        log.began("atomic", "ann", name)
    log.committed("atomic", "ann", "k")
    assert log.executions(path) == {("atomic", "ann", "k"): 2, ("atomic", "ann", "l"): 1}
    assert log.commits(path) == {("atomic", "ann", "k"): 1}
