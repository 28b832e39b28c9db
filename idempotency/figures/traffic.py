"""What happened within a window, out of the hourly counters. Asks nobody."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final

from idempotency import events
from idempotency.exceptions import (
    InProgress,
    KeyExpired,
    KeyReused,
    OutcomeUnknown,
    ReplyNotKept,
)
from idempotency.figures.window import Window
from idempotency.layers.counters import Group, Hour, Total

#: Events that are told by the hour. A duplicate is of one of the first four, by what caught it;
#: that it waited, or that only the ledger's constraint caught it, is reported besides.
GROUPS: Final[Mapping[str, Group]] = {
    "cache": {events.REPLAYED: ("cache",)},
    "ledger": {events.REPLAYED: ("ledger",)},
    "job": {events.ATTACHED: None},
    "refused": {
        events.REFUSED: tuple(
            refusal.default_code
            for refusal in (InProgress, KeyExpired, ReplyNotKept, OutcomeUnknown)
        )
    },
    "executed": {events.EXECUTED: None, events.JOB_QUEUED: None},
    # Observe mode: all, those that were the first, and those that were no duplicates.
    "observed": {events.OBSERVED: None},
    "observed_first": {events.OBSERVED: (events.EXECUTED, events.NEW_FINGERPRINT)},
    "observed_other": {events.OBSERVED: (KeyReused.default_code, events.UNKNOWN_FINGERPRINT)},
}
#: What an operation's time is told by: the work itself, where it went well.
_TIMED: Final[Group] = {events.EXECUTED: None, events.JOB_ENDED: ("succeeded",)}


@dataclass(frozen=True, slots=True)
class Caught:
    """Duplicates, each counted once, by what caught them."""

    #: The reply was stored in the cache: no statement was sent to the database.
    cache: int = 0
    #: The ledger had the reply.
    ledger: int = 0
    #: A job stands for the key: its status was the reply.
    job: int = 0
    #: It got a refusal in the reply's place: the first request still runs, or its reply has
    #: expired, was too large to keep, or is not known.
    refused: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.cache + self.ledger + self.job + self.refused

    @property
    def cache_share(self) -> float | None:
        """Of the replays, those that asked no database; `None` where there were none."""
        replays = self.cache + self.ledger
        return self.cache / replays if replays else None


@dataclass(frozen=True, slots=True)
class Period:
    """What happened from `began` until the next period."""

    #: In the window's zone.
    began: datetime
    caught: Caught
    executed: int
    #: Duplicates that observe mode has only counted.
    let_through: int


@dataclass(frozen=True, slots=True)
class Named:
    """How often something of this name happened."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Operation:
    """What happened to one operation; to those beyond the limit of names where it has none."""

    name: str
    #: Requests that ran, and jobs that ended well.
    executed: int
    #: Of one of those, on average; `None` where there were none.
    mean_seconds: float | None
    caught: int
    #: Of every kind.
    refusals: int
    let_through: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """What happened within a window."""

    #: The oldest first.
    periods: tuple[Period, ...]
    caught: Caught
    #: First requests, those that queued a job included.
    executed: int
    #: By the code that clients were sent, the most frequent first.
    refusals: tuple[Named, ...]
    #: What observe mode would have done, the most frequent first.
    observed: tuple[Named, ...]
    let_through: int
    #: The slowest first.
    operations: tuple[Operation, ...]
    #: Every event by its name, see `idempotency.events`.
    events: Mapping[str, int]
    #: That the ledger has got, from the first hour with a count on.
    records_an_hour: float


def traffic(window: Window, hours: Sequence[Hour], totals: Sequence[Total]) -> Traffic:
    """Put together what was counted by the hour, in GROUPS, and what by operation."""
    by_event: dict[str, Counter[str]] = defaultdict(Counter)
    for total in totals:
        by_event[total.event][total.detail] += total.count
    counts = _grouped(totals)
    return Traffic(
        periods=_periods(window, hours),
        caught=_caught(counts),
        executed=counts["executed"],
        refusals=_most_frequent(by_event[events.REFUSED]),
        observed=_most_frequent(by_event[events.OBSERVED]),
        let_through=_let_through(counts),
        operations=_operations(totals),
        events={name: by_event[name].total() for name in sorted(by_event) if by_event[name]},
        records_an_hour=_records_an_hour(window, hours),
    )


def _periods(window: Window, hours: Iterable[Hour]) -> tuple[Period, ...]:
    periods: dict[datetime, Counter[str]] = {began: Counter() for began in window.periods()}
    for hour in hours:
        periods[window.period_of(hour.number)].update(hour.counts)
    return tuple(
        Period(
            began.astimezone(window.zone),
            _caught(counts),
            counts["executed"],
            _let_through(counts),
        )
        for began, counts in periods.items()
    )


def _operations(totals: Iterable[Total]) -> tuple[Operation, ...]:
    by_name: dict[str, list[Total]] = defaultdict(list)
    for total in totals:
        by_name[total.operation].append(total)
    found = [_operation(name, its) for name, its in by_name.items()]
    return tuple(sorted(found, key=lambda one: (-(one.mean_seconds or 0.0), one.name)))


def _operation(name: str, totals: Sequence[Total]) -> Operation:
    counts = _grouped(totals)
    timed = [total for total in totals if _is_of(_TIMED, total)]
    times = sum(total.count for total in timed)
    return Operation(
        name,
        executed=times,
        mean_seconds=sum(total.seconds for total in timed) / times if times else None,
        caught=_caught(counts).total,
        refusals=sum(total.count for total in totals if total.event == events.REFUSED),
        let_through=_let_through(counts),
    )


def _records_an_hour(window: Window, hours: Sequence[Hour]) -> float:
    if not hours:
        return 0.0
    made = sum(hour.counts["executed"] + hour.counts["observed_first"] for hour in hours)
    first = min(hour.number for hour in hours)
    return made / min(window.hours, max(1, window.last - first + 1))


def _grouped(totals: Iterable[Total]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for total in totals:
        counts.update({name: total.count for name, group in GROUPS.items() if _is_of(group, total)})
    return counts


def _is_of(group: Group, total: Total) -> bool:
    if total.event not in group:
        return False
    details = group[total.event]
    return details is None or total.detail in details


def _caught(counts: Mapping[str, int]) -> Caught:
    return Caught(**{each.name: counts[each.name] for each in fields(Caught)})


def _let_through(counts: Mapping[str, int]) -> int:
    return counts["observed"] - counts["observed_first"] - counts["observed_other"]


def _most_frequent(counts: Counter[str]) -> tuple[Named, ...]:
    return tuple(Named(*one) for one in sorted(counts.items(), key=lambda one: (-one[1], one[0])))
