"""The figures: what the counters, the ledger and the catalogue are made into."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from idempotency.figures import LONGEST, gather
from idempotency.figures.traffic import Caught, Named
from idempotency.figures.window import Window
from idempotency.layers import census
from idempotency.layers.storage import Storage, Table
from idempotency.models import IdempotencyRecord
from tests.factories import HourlyCountFactory, JobFactory, RecordFactory

BERLIN = ZoneInfo("Europe/Berlin")
#: What `gather` asks: hours, operations, unsettled, the last id, the sample, its scopes, the
#: catalogue; SQLite's file besides.
QUERIES = 8 if connection.vendor == "sqlite" else 7


def hour_of(moment: datetime) -> int:
    return int(moment.timestamp() // 3600)


def happened(event: str, detail: str = "", count: int = 1, **more: object) -> None:
    HourlyCountFactory.create(event=event, detail=detail, count=count, **more)


class TestWindow:
    def test_a_day_is_told_by_the_hour_the_running_one_included(self) -> None:
        window = Window(24, hour_of(datetime(2026, 11, 26, 12, 30, tzinfo=UTC)), BERLIN)
        periods = window.periods()
        assert len(periods) == 24
        assert periods[0] == datetime(2026, 11, 25, 13, tzinfo=UTC)
        assert periods[-1] == datetime(2026, 11, 26, 12, tzinfo=UTC)

    @pytest.mark.parametrize(
        ("hours", "each", "most"),
        [(1, 1, 1), (48, 1, 48), (49, 6, 10), (336, 6, 57), (337, 24, 16)],
    )
    def test_longer_ones_are_told_in_longer_periods(self, hours, each, most) -> None:
        window = Window(hours, 500_000, UTC)
        assert window.each == each
        assert len(window.periods()) <= most

    def test_long_periods_begin_where_the_wall_clock_says_so(self) -> None:
        window = Window(30 * 24, hour_of(datetime(2026, 11, 26, 12, tzinfo=UTC)), BERLIN)
        assert {period.astimezone(BERLIN).hour for period in window.periods()} == {0}
        assert window.period_of(hour_of(datetime(2026, 11, 20, 23, tzinfo=UTC))) == datetime(
            2026, 11, 21, tzinfo=BERLIN
        )

    def test_where_clocks_are_set_back_no_hour_is_lost_and_no_period_is_told_twice(self) -> None:
        """Berlin has the hour from 2 to 3 twice on 25 October 2026."""
        last = hour_of(datetime(2026, 10, 25, 12, tzinfo=UTC))
        assert len(Window(24, last, BERLIN).periods()) == 24
        six = Window(7 * 24, last, BERLIN)
        assert len(set(six.periods())) == len(six.periods())
        assert {six.period_of(hour) for hour in range(last - 167, last + 1)} == set(six.periods())

    def test_zones_of_half_an_hour_keep_their_midnight(self) -> None:
        zone = ZoneInfo("Asia/Kolkata")
        periods = [period.astimezone(zone) for period in Window(30 * 24, 500_000, zone).periods()]
        assert {(period.hour, period.minute) for period in periods} == {(0, 0)}

    def test_an_hour_beside_the_window_counts_to_its_nearest_end(self) -> None:
        window = Window(3, 500_000, UTC)
        first, *_, last = window.periods()
        assert window.period_of(500_001) == last
        assert window.period_of(499_000) == first


@pytest.mark.django_db
class TestTraffic:
    def test_each_duplicate_is_counted_once_by_what_caught_it(self) -> None:
        happened("replayed", "cache", 7)
        happened("replayed", "ledger", 3)
        happened("attached", "", 2)
        for number, code in enumerate(
            ("in_progress", "key_expired", "reply_not_kept", "outcome_unknown")
        ):
            happened("refused", f"idempotency_{code}", 10**number)
        # Told besides, or no duplicates.
        happened("waited", "", 5)
        happened("constraint_caught", "", 5)
        happened("refused", "idempotency_key_reused", 5)
        traffic = gather(24).traffic
        assert traffic.caught == Caught(cache=7, ledger=3, job=2, refused=1111)
        assert traffic.caught.total == 1123
        assert traffic.caught.cache_share == 0.7
        assert traffic.events["waited"] == traffic.events["constraint_caught"] == 5
        assert traffic.periods[-1].caught == traffic.caught

    def test_without_replays_there_is_no_share(self) -> None:
        happened("attached")
        assert gather(24).traffic.caught.cache_share is None

    def test_first_requests_are_those_that_ran_and_those_that_queued_a_job(self) -> None:
        happened("executed", count=5)
        happened("job_queued", count=2)
        happened("job_started", count=2)
        happened("job_ended", "succeeded", 2)
        traffic = gather(24).traffic
        assert traffic.executed == traffic.periods[-1].executed == 7

    def test_what_is_older_than_the_window_is_not_told(self) -> None:
        happened("executed", count=1)
        happened("executed", count=10, ago=timedelta(hours=23))
        happened("executed", count=100, ago=timedelta(hours=24))
        assert gather(24).traffic.executed == 11
        assert gather(25).traffic.executed == 111
        assert gather(1).traffic.executed == 1

    def test_periods_add_up_to_the_whole(self) -> None:
        for hours in range(0, 30 * 24, 5):
            ago = timedelta(hours=hours)
            happened("executed", count=hours + 1, ago=ago)
            happened("replayed", "cache", hours + 1, ago=ago)
        for window in (24, 7 * 24, 30 * 24):
            traffic = gather(window).traffic
            assert sum(period.executed for period in traffic.periods) == traffic.executed
            assert sum(period.caught.cache for period in traffic.periods) == traffic.caught.cache
            assert traffic.executed == sum(hours + 1 for hours in range(0, window, 5))

    def test_refusals_come_by_code_the_most_frequent_first(self) -> None:
        happened("refused", "idempotency_key_invalid", 2)
        happened("refused", "idempotency_key_reused", 9)
        happened("refused", "idempotency_key_reused", 1, operation="pay.capture")
        assert gather(24).traffic.refusals == (
            Named("idempotency_key_reused", 10),
            Named("idempotency_key_invalid", 2),
        )

    def test_observe_mode_tells_what_it_let_through(self) -> None:
        happened("observed", "executed", 100)
        happened("observed", "replayed", 7)
        happened("observed", "idempotency_in_progress", 2)
        happened("observed", "idempotency_key_reused", 1)
        traffic = gather(24).traffic
        assert traffic.let_through == traffic.periods[-1].let_through == 9
        assert sum(one.let_through for one in traffic.operations) == 9
        assert traffic.observed[0] == Named("executed", 100)
        assert traffic.executed == 0  # nothing is enforced

    def test_the_slowest_operation_comes_first_by_the_mean_of_what_went_well(self) -> None:
        happened("executed", "", 10, operation="fast", seconds=1.0)
        happened("executed", "", 10, operation="slow", seconds=50.0)
        happened("failed", "ValueError", 10, operation="slow", seconds=900.0)
        happened("job_ended", "succeeded", 10, operation="job", seconds=30.0)
        happened("job_ended", "failed", 10, operation="job", seconds=0.0)
        happened("refused", "idempotency_key_invalid", 4, operation="never")
        told = [
            (one.name, one.mean_seconds, one.executed, one.refusals)
            for one in gather(24).traffic.operations
        ]
        assert told == [
            ("slow", 5.0, 10, 0),
            ("job", 3.0, 10, 0),
            ("fast", 0.1, 10, 0),
            ("never", None, 0, 4),
        ]

    def test_records_an_hour_are_counted_from_the_first_hour_that_has_any(self) -> None:
        """A fresh installation would look as if it hardly grew."""
        happened("executed", count=10, ago=timedelta(hours=4))
        happened("observed", "executed", 10)
        assert gather(30 * 24).traffic.records_an_hour == 4.0
        assert gather(2).traffic.records_an_hour == 10.0

    @pytest.mark.parametrize("hours", [0, -1, LONGEST + 1])
    def test_hours_are_bounded(self, hours) -> None:
        with pytest.raises(ValueError, match=f"between 1 and {LONGEST}"):
            gather(hours)

    def test_the_longest_window_is_what_the_purge_keeps(self) -> None:
        happened("executed", ago=timedelta(hours=LONGEST - 1))
        assert gather(LONGEST).traffic.executed == 1


@pytest.mark.django_db
class TestNow:
    def test_what_has_no_outcome_is_told_by_what_it_waits_for(self) -> None:
        RecordFactory.create_batch(3, leased=True)
        RecordFactory.create(lapsed=True)
        JobFactory.create_batch(2)
        JobFactory.create(running=True)
        JobFactory.create(record__lease_until=timezone.now() - timedelta(seconds=1))
        RecordFactory.create(unknown=True)
        RecordFactory.create(unknown=True, lease_until=timezone.now() - timedelta(seconds=1))
        JobFactory.create(succeeded=True)
        for over in ("released", "tombstone", "forgotten", "abandoned"):
            RecordFactory.create(**{over: True})
        unsettled = gather(24).unsettled
        assert unsettled == census.Unsettled(
            leased=4, queued=3, running=1, overdue=2, unknown=2, is_all=True
        )
        assert unsettled.in_flight == 8

    def test_beyond_the_limit_there_are_at_least_so_many(self, monkeypatch) -> None:
        monkeypatch.setattr(census, "LIMIT", 3)
        RecordFactory.create_batch(2, leased=True)
        assert gather(24).unsettled.is_all
        RecordFactory.create_batch(2, leased=True)
        unsettled = gather(24).unsettled
        assert (unsettled.leased, unsettled.is_all) == (3, False)

    def test_the_busiest_scopes_are_those_of_the_newest_records(self, monkeypatch) -> None:
        monkeypatch.setattr(census, "LIMIT", 5)
        RecordFactory.create_batch(9, scope="user:old/a")
        RecordFactory.create_batch(3, scope="user:2/a", replays=2)
        RecordFactory.create(scope="user:1/a")
        RecordFactory.create(scope="user:3/a", abandoned=True)
        newest = gather(24).newest
        assert (newest.records, newest.abandoned) == (5, 1)
        assert newest.scopes == (
            census.Scope("user:2/a", 3, 6),
            census.Scope("user:1/a", 1, 0),
            census.Scope("user:3/a", 1, 0),
        )

    def test_only_so_many_scopes_are_named(self) -> None:
        for number in range(12):
            RecordFactory.create(scope=f"user:{number}/a")
        assert len(gather(24).newest.scopes) == 10


@pytest.mark.django_db
class TestStorage:
    def test_our_tables_are_there_the_records_first(self) -> None:
        storage = gather(24).storage
        assert [table.name for table in storage.tables] == [
            "idempotency_record",
            "idempotency_job",
            "idempotency_step",
            "idempotency_hourly_count",
        ]
        assert storage.size > 0

    @pytest.mark.django_db(transaction=True)
    def test_rows_are_about_right_once_the_database_has_looked(self) -> None:
        RecordFactory.create_batch(50)
        with connection.cursor() as cursor:
            cursor.execute(
                {"mysql": "ANALYZE TABLE idempotency_record"}.get(
                    connection.vendor, "ANALYZE idempotency_record"
                )
            )
        records = gather(24).storage.tables[0]
        assert 40 <= records.rows <= 60
        assert (records.size is None) == (connection.vendor == "sqlite")

    def test_growth_is_new_records_times_their_size(self) -> None:
        happened("executed", count=12)
        sized = Storage((Table("idempotency_record", 100, 80_000),), 80_000)
        assert sized.bytes_a_record == 800
        assert replace(gather(24), storage=sized).bytes_a_day == 12 * 24 * 800

    @pytest.mark.parametrize(("rows", "size"), [(None, 8192), (0, 8192), (5, None)])
    def test_what_is_unknown_is_not_made_up(self, rows, size) -> None:
        assert Storage((Table("idempotency_record", rows, size),), 0).bytes_a_record is None


@pytest.mark.django_db
@pytest.mark.parametrize("hours", [24, 7 * 24, 30 * 24])
def test_the_number_of_statements_is_fixed(hours) -> None:
    RecordFactory.create_batch(20)
    JobFactory.create()
    for number in range(20):
        happened("executed", operation=f"operation-{number}", ago=timedelta(hours=number))
    gather(24)
    with CaptureQueriesContext(connection) as captured:
        gather(hours)
    assert len(captured) == QUERIES


@pytest.mark.django_db
def test_nothing_is_counted_and_no_record_is_there() -> None:
    assert gather(24).is_empty
    RecordFactory.create()
    assert not gather(24).is_empty
    IdempotencyRecord.objects.all().delete()
    happened("refused", "idempotency_key_required")
    assert not gather(24).is_empty


@pytest.mark.django_db
def test_hours_are_told_in_the_projects_zone(settings) -> None:
    settings.TIME_ZONE = "Asia/Kolkata"
    with timezone.override(ZoneInfo("Asia/Kolkata")):
        assert gather(30 * 24).window.zone == ZoneInfo("Asia/Kolkata")
    assert gather(24).window.last == int(time.time() // 3600)


def explained(hours: int) -> str:
    with CaptureQueriesContext(connection) as captured:
        gather(hours)
    plans = []
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")  # the tables are nearly empty here
        for query in captured:
            if "pg_class" not in query["sql"]:
                cursor.execute(f"EXPLAIN {query['sql']}")
                plans += [row[0] for row in cursor.fetchall()]
    return "\n".join(plans)


@pytest.mark.django_db
@pytest.mark.vendors("postgresql")
def test_every_statement_has_an_index() -> None:
    # As many as give the planner a reason, and it is told of them: else it goes by what another
    # test has left.
    IdempotencyRecord.objects.bulk_create(RecordFactory.build_batch(500))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE idempotency_record")
    plan = explained(24)
    assert "Seq Scan" not in plan
    for index in ("idempotency_hour", "idempotency_purge_at", "idempotency_record_pkey"):
        assert index in plan
