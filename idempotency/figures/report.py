"""The figures, for people at a terminal and for programs."""

from datetime import UTC
from typing import Any, Final

from idempotency import events
from idempotency.figures.gathering import Figures
from idempotency.figures.traffic import Caught, Traffic
from idempotency.layers import census
from idempotency.tables import many, printable, table

#: Operations in the text.
_TOP: Final = 10

_EMPTY: Final = (
    "Nothing has been counted yet, and there are no records.\n"
    "Put IdempotencyMixin before the base class of a view, and send it a POST with the header"
    " Idempotency-Key: it shows here some seconds later.\n"
    'Policy(mode="observe") counts what would have been deduplicated, and changes no reply.'
)


def as_json(figures: Figures) -> dict[str, Any]:
    """The figures as plain values; moments in UTC, sizes in bytes, times in seconds."""
    traffic, unsettled, newest = figures.traffic, figures.unsettled, figures.newest
    storage = figures.storage
    return {
        "hours": figures.window.hours,
        "caught": _caught(traffic.caught),
        "replays_without_database": traffic.caught.cache_share,
        "executed": traffic.executed,
        "refusals": {each.name: each.count for each in traffic.refusals},
        "observed": {each.name: each.count for each in traffic.observed},
        "let_through": traffic.let_through,
        "events": dict(traffic.events),
        "now": {
            "in_flight": unsettled.in_flight,
            "leased": unsettled.leased,
            "jobs_queued": unsettled.queued,
            "jobs_running": unsettled.running,
            "overdue": unsettled.overdue,
            "outcome_unknown": unsettled.unknown,
            "at_least": not unsettled.is_all,
            "abandoned": newest.abandoned,
        },
        "storage": {
            "bytes": storage.size,
            "bytes_a_record": storage.bytes_a_record,
            "records_a_day": traffic.records_an_hour * 24,
            "bytes_a_day": figures.bytes_a_day,
            "tables": {one.name: {"rows": one.rows, "bytes": one.size} for one in storage.tables},
        },
        "operations": [
            {
                "operation": printable(one.name),
                "executed": one.executed,
                "mean_seconds": one.mean_seconds,
                "caught": one.caught,
                "refusals": one.refusals,
                "let_through": one.let_through,
            }
            for one in traffic.operations
        ],
        "newest_records": newest.records,
        "busiest_scopes": [
            {"scope": one.scope, "records": one.records, "replays": one.replays}
            for one in newest.scopes
        ],
        "hours_of_a_period": figures.window.each,
        "periods": [
            {
                "from": period.began.astimezone(UTC).isoformat(),
                "caught": _caught(period.caught),
                "executed": period.executed,
                "let_through": period.let_through,
            }
            for period in traffic.periods
        ],
    }


def as_text(figures: Figures) -> str:
    """The figures as tables."""
    if figures.is_empty:
        return _EMPTY
    traffic = figures.traffic
    parts = [
        f"The last {many(figures.window.hours, 'hour')}:",
        _summary(traffic),
        _periods(figures),
        _named("refused, by code", traffic.refusals),
        _named("observe mode would have", traffic.observed),
        _operations(traffic),
        f"Now:\n\n{_now(figures)}",
        _scopes(figures.newest),
        _storage(figures),
    ]
    return "\n\n".join(part for part in parts if part)


def size_of(size: float) -> str:
    """Bytes in a unit that keeps the number short."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _summary(traffic: Traffic) -> str:
    caught, happened = traffic.caught, traffic.events
    rows = [
        ("executed", traffic.executed),
        ("duplicates caught", caught.total),
        ("  answered by the cache", caught.cache),
        ("  answered by the ledger", caught.ledger),
        ("  attached to a job", caught.job),
        ("  refused", caught.refused),
        ("  of all: waited for the first", happened.get(events.WAITED, 0)),
        ("  of all: missed by cache and lock", happened.get(events.CONSTRAINT_CAUGHT, 0)),
        ("failed, and forgotten", happened.get(events.FAILED, 0)),
    ]
    shown = [(name, f"{count:,}") for name, count in rows]
    if caught.cache_share is not None:
        shown.append(("replays without the database", f"{caught.cache_share:.1%}"))
    return table(("requests", "count"), shown)


def _periods(figures: Figures) -> str:
    form = "%a %H:%M" if figures.window.each == 1 else "%d %b %H:%M"
    rows = [
        (
            f"{period.began:{form}}",
            *(f"{count:,}" for count in (period.executed, period.caught.total)),
            *(f"{count:,}" for count in _parts(period.caught)),
        )
        for period in figures.traffic.periods
        if period.executed or period.caught.total
    ]
    headings = ("from", "executed", "duplicates", "cache", "ledger", "job", "refused")
    return table(headings, rows) if rows else ""


def _named(heading: str, rows: Any) -> str:
    shown = [(printable(each.name), f"{each.count:,}") for each in rows]
    return table((heading, "count"), shown) if shown else ""


def _operations(traffic: Traffic) -> str:
    rows = [
        (
            printable(one.name) or "(further ones)",
            "-" if one.mean_seconds is None else f"{one.mean_seconds:.3f}",
            *(f"{count:,}" for count in (one.executed, one.caught, one.refusals)),
        )
        for one in traffic.operations[:_TOP]
    ]
    if not rows:
        return ""
    headings = ("operation, the slowest first", "mean s", "executed", "duplicates", "refused")
    further = len(traffic.operations) - _TOP
    return table(headings, rows) + (f"\n... and {further:,} more" if further > 0 else "")


def _now(figures: Figures) -> str:
    unsettled = figures.unsettled
    rows = [
        ("leased requests", unsettled.leased),
        ("jobs queued", unsettled.queued),
        ("jobs running", unsettled.running),
        ("of all those: no sign of life in time", unsettled.overdue),
        ("outcome unknown, waits for an operator", unsettled.unknown),
    ]
    shown = table(("in flight", "count"), [(name, f"{count:,}") for name, count in rows])
    if not unsettled.is_all:
        shown += f"\nThere are more: only {census.LIMIT:,} were looked at."
    return shown


def _scopes(newest: census.Newest) -> str:
    rows = [(printable(one.scope), f"{one.records:,}", f"{one.replays:,}") for one in newest.scopes]
    heading = f"busiest of the newest {many(newest.records, 'record')}"
    shown = table((heading, "records", "replays"), rows) if rows else ""
    if newest.abandoned:
        shown += f"\nAbandoned among them, for a retry to take over: {newest.abandoned:,}."
    return shown


def _storage(figures: Figures) -> str:
    storage = figures.storage
    rows = [
        (
            one.name,
            "?" if one.rows is None else f"{one.rows:,}",
            "?" if one.size is None else size_of(one.size),
        )
        for one in storage.tables
    ]
    shown = table(("table", "rows, about", "size"), rows)
    growth = f"\nAll: {size_of(storage.size)}."
    growth += f" New: {figures.traffic.records_an_hour * 24:,.0f} records a day"
    if figures.bytes_a_day is not None:
        growth += f", {size_of(figures.bytes_a_day)}"
    return f"{shown}{growth}, before the purge."


def _parts(caught: Caught) -> tuple[int, int, int, int]:
    return caught.cache, caught.ledger, caught.job, caught.refused


def _caught(caught: Caught) -> dict[str, int]:
    names = ("cache", "ledger", "job", "refused")
    return {"total": caught.total, **dict(zip(names, _parts(caught), strict=True))}
