"""The hourly counters: what processes have counted is added up here, an upsert a batch."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import connections, router, transaction
from django.db.models import Q, QuerySet, Sum

from idempotency.layers.clock import after
from idempotency.models import HourlyCount, IdempotencyRecord
from idempotency.outcomes import Identity

#: Days that a count is kept: the longest view shows thirty, and two more months to compare it with.
KEPT_DAYS: Final = 90

#: Counts that are deleted in one transaction.
BATCH_SIZE: Final = 5_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)
_TABLE: Final = HourlyCount._meta.db_table
_RECORDS: Final = IdempotencyRecord._meta.db_table
_INSERT: Final = f"INSERT INTO {_TABLE} (hour, operation, event, detail, count, seconds) VALUES"
_ADD: Final = {
    "mysql": (
        "ON DUPLICATE KEY UPDATE count = count + VALUES(count), seconds = seconds + VALUES(seconds)"
    ),
    "": (
        "ON CONFLICT (hour, operation, event, detail) DO UPDATE SET"
        f" count = {_TABLE}.count + excluded.count, seconds = {_TABLE}.seconds + excluded.seconds"
    ),
}


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What is counted together."""

    #: Hours since the epoch.
    hour: int
    operation: str
    event: str
    detail: str

    @property
    def began(self) -> datetime:
        """When the hour began."""
        return datetime.fromtimestamp(self.hour * 3600, UTC)


@dataclass(frozen=True, slots=True)
class Count:
    """How often, and the seconds that all of them took together."""

    kind: Kind
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Total:
    """How often something happened to one operation, and the seconds that it took together."""

    event: str
    detail: str
    operation: str
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Hour:
    """What happened within one hour, in groups of events."""

    #: Since the epoch.
    number: int
    counts: Mapping[str, int]


#: Events with these details; `None` stands for every detail.
Group = Mapping[str, Collection[str] | None]


def alias() -> str:
    """Where the counters are: the router's choice."""
    return router.db_for_write(HourlyCount)


def add(counts: Sequence[Count]) -> None:
    """Add to the counters. One statement; none where there is nothing to add."""
    if not counts:
        return
    connection = connections[alias()]
    values = ", ".join(["(%s, %s, %s, %s, %s, %s)"] * len(counts))
    moment = connection.ops.adapt_datetimefield_value
    parameters = [
        value
        # Always in the same order: two processes that add at once must not deadlock.
        for one in sorted(counts, key=lambda one: one.kind)
        for value in (
            *(moment(one.kind.began), one.kind.operation, one.kind.event, one.kind.detail),
            *(one.count, one.seconds),
        )
    ]
    how = _ADD.get(connection.vendor, _ADD[""])
    with connection.cursor() as cursor:
        cursor.execute(f"{_INSERT} {values} {how}", parameters)


def add_replays(replays: Iterable[tuple[Identity, int]]) -> None:
    """Add to the records' own counts. A record that is gone by now is nobody's loss."""
    by_alias: dict[str, list[tuple[int, str, str]]] = {}
    for identity, count in replays:
        by_alias.setdefault(identity.using, []).append((count, identity.scope, identity.key))
    for using, rows in by_alias.items():
        connection = connections[using]
        key = connection.ops.quote_name("key")
        rows.sort(key=lambda row: row[1:])
        with transaction.atomic(using=using), connection.cursor() as cursor:
            cursor.executemany(
                f"UPDATE {_RECORDS} SET replays = replays + %s"  # noqa: S608 - a model's table
                f" WHERE scope = %s AND {key} = %s",
                rows,
            )


def purge() -> int:
    """Delete the counts that are older than `KEPT_DAYS`, a batch at a time; how many there were."""
    counts = HourlyCount.objects.using(alias())
    old = counts.filter(hour__lt=after(-KEPT_DAYS * 86_400.0)).order_by("hour")
    deleted = 0
    while batch := list(old.values_list("pk", flat=True)[:BATCH_SIZE]):
        deleted += counts.filter(pk__in=batch).delete()[0]
    return deleted


def by_hour(hours: float, groups: Mapping[str, Group]) -> list[Hour]:
    """How often the events of each group happened, hour by hour, all operations together.

    The database does the grouping: a row an hour, whatever the number of operations.
    """
    sums = {name: Sum("count", filter=_within(group)) for name, group in groups.items()}
    rows = _since(hours).values_list("hour").annotate(**sums).order_by()
    return [
        Hour((hour - _EPOCH) // _HOUR, {name: n or 0 for name, n in zip(sums, counts, strict=True)})
        for hour, *counts in rows
    ]


def by_operation(hours: float) -> list[Total]:
    """What happened to each operation."""
    rows = _since(hours).values_list("event", "detail", "operation")
    return [Total(*row) for row in rows.annotate(Sum("count"), Sum("seconds")).order_by()]


def _since(hours: float) -> "QuerySet[HourlyCount]":
    return HourlyCount.objects.using(alias()).filter(hour__gt=after(-hours * 3600))


def _within(group: Group) -> Q:
    within = Q()
    for event, details in group.items():
        within |= Q(event=event) if details is None else Q(event=event, detail__in=details)
    return within
