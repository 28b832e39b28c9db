"""The figures in the words of the dashboard: what is shown, and in the visitor's own format."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.template.defaultfilters import filesizeformat
from django.utils import dateformat
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from idempotency import events
from idempotency.admin.charts import Chart, Series, Slot, number, stacked
from idempotency.figures import Figures
from idempotency.figures.traffic import Named, Period
from idempotency.layers.census import Unsettled

#: Operations and codes that are shown; `idempotency_stats --json` tells all.
TOP: Final = 10

#: Where there is no figure.
_NONE: Final = "-"

#: What the refusals' codes mean, in a word.
_CODES: Final = {
    "idempotency_in_progress": gettext_lazy("the first request still runs"),
    "idempotency_key_reused": gettext_lazy("the key stands for another request"),
    "idempotency_key_required": gettext_lazy("no key"),
    "idempotency_key_invalid": gettext_lazy("malformed key"),
    "idempotency_key_expired": gettext_lazy("a retry after the reply expired"),
    "idempotency_reply_not_kept": gettext_lazy("the reply was too large to keep"),
    "idempotency_outcome_unknown": gettext_lazy("the outcome waits for an operator"),
    "idempotency_unavailable": gettext_lazy("the ledger was out of reach"),
    events.EXECUTED: gettext_lazy("run: it was the first"),
    events.REPLAYED: gettext_lazy("answered with the stored reply"),
    events.ATTACHED: gettext_lazy("answered with the job's status"),
    events.NEW_FINGERPRINT: gettext_lazy("without a key: nothing like it within a minute"),
    events.KNOWN_FINGERPRINT: gettext_lazy("without a key: the same again within a minute"),
    events.UNKNOWN_FINGERPRINT: gettext_lazy("without a key: nobody can tell"),
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure by itself."""

    label: str
    value: str
    note: str = ""
    #: A stage of the list of records that it links to; "" for none.
    stage: str = ""
    is_alarming: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure among its like; `share` is a width, of the greatest one's."""

    name: str
    meaning: Any
    value: str
    share: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A line of the operations."""

    name: str
    mean: str
    executed: str
    caught: str
    refusals: str


@dataclass(frozen=True, slots=True)
class Now:
    """How many keys stand somewhere; `stage` as in Tile."""

    label: str
    value: str
    stage: str


def tiles(figures: Figures) -> list[Tile]:
    """The figures that are asked for first."""
    traffic, unsettled = figures.traffic, figures.unsettled
    share = traffic.caught.cache_share
    return [
        Tile(
            _("Duplicates caught"),
            number(traffic.caught.total),
            _("%(waited)s of them waited for the first request")
            % {"waited": number(traffic.events.get(events.WAITED, 0))},
        ),
        Tile(
            _("Replays without the database"),
            _NONE if share is None else f"{number_format(share * 100, 1)} %",
            _("the cache had the reply"),
        ),
        Tile(
            _("Executed"),
            number(traffic.executed),
            _("%(failed)s failed, and were forgotten")
            % {"failed": number(traffic.events.get(events.FAILED, 0))},
        ),
        Tile(_("Refused"), number(sum(each.count for each in traffic.refusals))),
        Tile(
            _("In flight now"),
            _at_least(unsettled.in_flight, unsettled),
            _("%(overdue)s without a sign of life") % {"overdue": number(unsettled.overdue)},
        ),
        Tile(
            _("Outcome unknown"),
            _at_least(unsettled.unknown, unsettled),
            _("to be settled by an operator") if unsettled.unknown else _("nothing to settle"),
            stage="unknown" if unsettled.unknown else "",
            is_alarming=unsettled.unknown > 0,
        ),
    ]


def caught_chart(figures: Figures) -> Chart:
    """Duplicates by what caught them; those that observe mode let through, where there are any."""
    caught = [each.caught for each in figures.traffic.periods]
    series = [
        Series("cache", _("answered by the cache"), [each.cache for each in caught]),
        Series("ledger", _("answered by the ledger"), [each.ledger for each in caught]),
        Series("job", _("attached to a job"), [each.job for each in caught]),
        Series("refused", _("refused"), [each.refused for each in caught]),
    ]
    if figures.traffic.let_through:
        through = [each.let_through for each in figures.traffic.periods]
        series.append(Series("through", _("let through by observe mode"), through))
    return stacked("caught", _("Duplicates caught"), _slots(figures), series)


def executed_chart(figures: Figures) -> Chart:
    """First requests."""
    executed = [each.executed for each in figures.traffic.periods]
    series = [Series("executed", _("executed"), executed)]
    return stacked("executed", _("Executed requests"), _slots(figures), series)


def bars(rows: Sequence[Named]) -> list[Bar]:
    """The most frequent ones."""
    highest = max((each.count for each in rows), default=0) or 1
    return [
        Bar(
            each.name,
            _CODES.get(each.name, ""),
            number(each.count),
            f"{100 * each.count / highest:.1f}%",
        )
        for each in rows[:TOP]
    ]


def operations(figures: Figures) -> list[Operation]:
    """The slowest ones."""
    return [
        Operation(
            one.name,
            _duration(one.mean_seconds),
            *(number(count) for count in (one.executed, one.caught, one.refusals)),
        )
        for one in figures.traffic.operations[:TOP]
    ]


def now(figures: Figures) -> list[Now]:
    """The keys that have no outcome."""
    unsettled, newest = figures.unsettled, figures.newest
    among = _("Abandoned, of the newest %(records)s") % {"records": number(newest.records)}
    return [
        Now(_("Leased requests"), number(unsettled.leased), "running"),
        Now(_("Jobs queued"), number(unsettled.queued), "job"),
        Now(_("Jobs running"), number(unsettled.running), "job"),
        Now(_("Of these, without a sign of life"), number(unsettled.overdue), "lapsed"),
        Now(among, number(newest.abandoned), "abandoned"),
        Now(_("Outcome unknown"), number(unsettled.unknown), "unknown"),
    ]


def scopes(figures: Figures) -> Iterable[tuple[str, str, str]]:
    """Each scope: its records among the newest, and their replays."""
    for one in figures.newest.scopes:
        yield one.scope, number(one.records), number(one.replays)


def storage(figures: Figures) -> Iterable[tuple[str, str, str]]:
    """Each table: its rows, about, and its size."""
    for one in figures.storage.tables:
        rows = _NONE if one.rows is None else number(one.rows)
        yield one.name, rows, _NONE if one.size is None else filesizeformat(one.size)


def growth(figures: Figures) -> str:
    """What comes in a day."""
    records = number(round(figures.traffic.records_an_hour * 24))
    size = figures.bytes_a_day
    if size is None:
        return _("%(records)s records a day") % {"records": records}
    return _("%(records)s records a day, %(size)s") % {
        "records": records,
        "size": filesizeformat(size),
    }


def _at_least(count: int, unsettled: Unsettled) -> str:
    return number(count) if unsettled.is_all else f"≥ {number(count)}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _NONE
    if seconds < 1:
        return f"{number_format(seconds * 1000, 0)} ms"
    return f"{number_format(seconds, 1, force_grouping=True)} s"


def _slots(figures: Figures) -> list[Slot]:
    each = figures.window.each
    return [_slot(period, each) for period in figures.traffic.periods]


def _slot(period: Period, each: int) -> Slot:
    began: datetime = period.began
    day, hour = dateformat.format(began, "j M"), dateformat.format(began, "H:i")
    if each == 1:
        return Slot(f"{day}, {hour}", hour, marked=began.hour % 4 == 0)
    if each < 24:
        return Slot(f"{day}, {hour}", day, marked=began.hour == 0)
    return Slot(day, day, marked=True)
