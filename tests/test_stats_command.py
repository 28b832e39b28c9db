"""`idempotency_stats`: the figures at a terminal, and as JSON."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError

from idempotency.figures.report import size_of
from idempotency.layers import counters
from idempotency.management.commands.idempotency_stats import UNKNOWN
from tests.factories import HourlyCountFactory, JobFactory, RecordFactory

pytestmark = pytest.mark.django_db


def stats(*arguments: str) -> str:
    out = StringIO()
    call_command("idempotency_stats", *arguments, stdout=out)
    return out.getvalue()


def row(shown: str, heading: str) -> list[str]:
    """What stands beside a name in any of the tables."""
    (line,) = [line for line in shown.splitlines() if line.startswith(heading)]
    return line.removeprefix(heading).split()


@pytest.fixture
def day() -> None:
    HourlyCountFactory.create(count=1200, seconds=60.0)
    HourlyCountFactory.create(event="replayed", detail="cache", count=900)
    HourlyCountFactory.create(event="replayed", detail="ledger", count=100)
    HourlyCountFactory.create(event="waited", count=40)
    HourlyCountFactory.create(event="refused", detail="idempotency_key_reused", count=7)
    HourlyCountFactory.create(event="observed", detail="replayed", count=3)
    RecordFactory.create(scope="user:1/shop.OrderViewSet.create", replays=5)
    RecordFactory.create(lapsed=True, scope="user:2/shop.OrderViewSet.create")
    JobFactory.create(record__scope="user:3/imports.create")


def test_the_tables_tell_it_all(day) -> None:
    shown = stats()
    assert shown.startswith("The last 24 hours:")
    assert row(shown, "executed ") == ["1,200"]
    assert row(shown, "duplicates caught") == ["1,000"]
    assert row(shown, "  answered by the cache") == ["900"]
    assert row(shown, "  of all: waited for the first") == ["40"]
    assert row(shown, "replays without the database") == ["90.0%"]
    assert row(shown, "idempotency_key_reused") == ["7"]
    assert row(shown, "replayed") == ["3"]
    assert row(shown, "shop.OrderViewSet.create") == ["0.050", "1,200", "1,000", "7"]
    assert row(shown, "leased requests") == ["1"]
    assert row(shown, "jobs queued") == ["1"]
    assert row(shown, "of all those: no sign of life in time") == ["1"]
    assert row(shown, "user:1/shop.OrderViewSet.create") == ["1", "5"]
    assert "idempotency_record" in shown
    assert "28,800 records a day" in shown


def test_json_tells_the_same(day) -> None:
    told = json.loads(stats("--json", "--hours", "48"))
    assert told["hours"] == 48
    assert told["caught"] == {"total": 1000, "cache": 900, "ledger": 100, "job": 0, "refused": 0}
    assert told["replays_without_database"] == 0.9
    assert told["executed"] == 1200
    assert told["refusals"] == {"idempotency_key_reused": 7}
    assert told["observed"] == {"replayed": 3}
    assert told["let_through"] == 3
    assert told["events"]["waited"] == 40
    assert told["now"]["in_flight"] == 2
    assert told["now"]["at_least"] is False
    assert told["operations"][0]["mean_seconds"] == 0.05
    assert told["storage"]["records_a_day"] == 28_800
    assert set(told["storage"]["tables"]) >= {"idempotency_record", "idempotency_hourly_count"}
    assert {each["scope"] for each in told["busiest_scopes"]} >= {"user:1/shop.OrderViewSet.create"}
    assert len(told["periods"]) == 48
    assert told["periods"][-1]["caught"]["total"] == 1000
    assert told["periods"][-1]["from"].endswith("+00:00")


def test_long_tables_are_cut_and_say_so() -> None:
    for number in range(13):
        HourlyCountFactory.create(operation=f"operation-{number:02}")
    assert "... and 3 more" in stats()
    assert len(json.loads(stats("--json"))["operations"]) == 13


def test_hours_without_traffic_are_left_out_of_the_table() -> None:
    HourlyCountFactory.create(ago=timedelta(hours=2))
    table = stats().split("from ")[1].split("\n\n")[0].splitlines()
    assert len(table) == 2
    assert stats("--hours", "1").count("from ") == 0


def test_an_empty_database_is_told_what_to_do() -> None:
    shown = stats()
    assert "Nothing has been counted yet" in shown
    assert "IdempotencyMixin" in shown
    assert json.loads(stats("--json"))["executed"] == 0


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_an_unknown_outcome_is_an_exit_code(arguments) -> None:
    RecordFactory.create(unknown=True)
    with pytest.raises(SystemExit) as ended:
        stats(*arguments)
    assert ended.value.code == UNKNOWN == 3


@pytest.mark.parametrize("hours", ["0", "-1", "1.5", "many", "2161"])
def test_hours_that_are_none_are_refused(hours) -> None:
    with pytest.raises(CommandError, match="is no number of hours from 1 to 2160"):
        stats("--hours", hours)


def test_a_database_that_is_none_is_named() -> None:
    with pytest.raises(CommandError, match="--database: The connection 'nowhere'"):
        stats("--database", "nowhere")


def test_a_database_that_fails_is_an_error(monkeypatch) -> None:
    def away(*args):
        raise DatabaseError("gone")

    monkeypatch.setattr(counters, "by_operation", away)
    with pytest.raises(CommandError, match="The figures could not be read: gone"):
        stats()


def test_a_terminal_is_safe_from_what_stands_in_the_ledger() -> None:
    HourlyCountFactory.create(operation="shop\x1b[2J")
    assert "\x1b" not in stats()
    assert "shop?[2J" in stats()
    assert "\\u001b" not in stats("--json")


@pytest.mark.parametrize(
    ("size", "told"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (52_800_000, "52.8 MB"), (3.2e15, "3,200.0 TB")],
)
def test_sizes_are_short(size, told) -> None:
    assert size_of(size) == told
