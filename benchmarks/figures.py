"""What a run found, as plain values: the tables and the JSON show the same."""

import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import django
import rest_framework
from django.db import connection
from redis import Redis

from benchmarks.audit import Read
from benchmarks.cases import Kind
from benchmarks.counts import Count, verb
from benchmarks.crowd import Crowd, Outcome
from benchmarks.growth import Growth
from benchmarks.heartbeats import Heartbeats
from benchmarks.measure import Series, quantile, ratio
from benchmarks.pages import Pages
from benchmarks.purging import Purging
from benchmarks.served import Served
from benchmarks.sweep import Sweep
from benchmarks.views import WORK

Row = dict[str, Any]


def environment() -> Row:
    """The versions and the machine; only ratios travel from one machine to the next."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version'), current_setting('fsync')")
        postgres, fsync = cursor.fetchone()
    with Redis.from_url(os.environ["REDIS_URL"]) as client:
        server = client.info("server")["redis_version"]
    return {
        "python": platform.python_version(),
        "django": django.__version__,
        "djangorestframework": rest_framework.VERSION,
        "postgresql": postgres,
        "fsync": fsync,
        "redis": server,
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def timing(series: Series, bases: Mapping[Kind, Series]) -> Row:
    """One case: microseconds, and the ratio to its base."""
    case = series.case
    row: Row = {"name": case.name, "kind": str(case.kind), "replays": case.replays}
    if series.failure:
        return row | {"failure": series.failure}
    compared = ratio(series, bases[case.kind.base])
    return row | {
        "p50_us": round(series.p50),
        "p95_us": round(series.p95),
        "processor_us": round(statistics.median(series.processor)),
        "ratio": round(compared.middle, 3),
        "ratio_low": round(compared.low, 3),
        "ratio_high": round(compared.high, 3),
        "base": str(case.kind.base),
    }


def counted(count: Count) -> Row:
    """One request's commands."""
    return {
        "name": count.case.name,
        "kind": str(count.case.kind),
        "redis": list(count.redis),
        "redis_in_scripts": list(count.scripted),
        "sql": list(count.sql),
        "transactions": count.transactions,
        "savepoints": count.savepoints,
    }


def gathered(crowd: Crowd, outcomes: list[Outcome]) -> Row:
    """A crowd: who was served, how late, and how often the handler ran."""
    served = [outcome.reply for outcome in outcomes if outcome.reply.status == 201]
    refused = [outcome.reply for outcome in outcomes if outcome.reply.status == 409]
    commits = {one.key: one.committed for one in outcomes if one.committed is not None}
    executed = sum(outcome.committed is not None for outcome in outcomes)
    woken = [
        (one.reply.ended - commits[one.key]) * 1e3
        for one in outcomes
        if one.committed is None and one.reply.status == 201
    ]
    bodies = {(one.key, one.reply.body) for one in outcomes if one.reply.status == 201}
    return {
        "name": crowd.name,
        "keys": crowd.keys,
        "requests_a_key": crowd.requests,
        "processes": crowd.processes,
        "handler_ms": WORK * 1e3,
        "served": len(served),
        "refused_409": len(refused),
        "other": len(outcomes) - len(served) - len(refused),
        "duplicates": executed - crowd.keys,
        "different_replies": len(bodies) - crowd.keys,
        "p50_ms": _milliseconds((reply.microseconds / 1e3 for reply in served), 0.5),
        "p99_ms": _milliseconds((reply.microseconds / 1e3 for reply in served), 0.99),
        "wake_up_p50_ms": _milliseconds(woken, 0.5),
        "wake_up_p99_ms": _milliseconds(woken, 0.99),
    }


def _milliseconds(values: Iterable[float], share: float) -> float | None:
    known = list(values)
    if not known:
        return None
    return round(statistics.median(known) if share == 0.5 else quantile(known, share), 1)


def beaten(found: Heartbeats) -> Row:
    """What one leased execution's heartbeat sent."""
    third = found.lease / 3
    return {
        "lease_s": found.lease,
        "leases": round(found.worked / found.lease, 1),
        "connections": found.connections,
        "sql": [verb(sql) for sql in found.sql],
        "statements_a_third": round(len(found.sql) / (found.worked / third), 2),
    }


def swept(found: Sweep) -> Row:
    """The sweep, and the ratio of what it takes among many records to what it takes alone."""
    return {
        "records": found.records,
        "lost_jobs": found.lost,
        "seconds": round(found.among, 2),
        "seconds_alone": round(found.alone, 2),
        "ratio": round(found.among / found.alone, 2),
        "indexes": list(found.indexes),
        "planting_s": round(found.planting, 1),
    }


def served(cases: list[Served]) -> list[Row]:
    """Requests a second, and as a share of the base's in the same rounds."""
    bases: dict[Kind, Served] = {
        one.kind: one for one in cases if one.kind in (Kind.FLOOR, Kind.BARE)
    }
    return [
        {
            "name": one.name,
            "kind": str(one.kind),
            "requests_a_second": round(statistics.median(one.rates)),
            "share": round(
                statistics.median(
                    mine / theirs
                    for mine, theirs in zip(one.rates, bases[one.kind.base].rates, strict=True)
                ),
                2,
            ),
            "base": str(one.kind.base),
            "p50_ms": _milliseconds(one.times, 0.5),
            "p99_ms": _milliseconds(one.times, 0.99),
            "processor_us": round(one.processor / len(one.times) * 1e6),
        }
        for one in cases
    ]


def grown(found: Growth) -> Row:
    """The ledger's cost among many records, and a record's bytes."""
    return {
        "few": found.few,
        "many": found.many,
        "few_us": round(found.few_us),
        "many_us": round(found.many_us),
        "ratio": round(found.ratio.middle, 3),
        "ratio_low": round(found.ratio.low, 3),
        "ratio_high": round(found.ratio.high, 3),
        "reply_bytes": found.reply_size,
        "record_bytes": round(found.record_size),
    }


def paged(found: Pages) -> Row:
    """What each page takes."""
    return {
        "records": found.records,
        "counters": found.counters,
        "pages": [
            {
                "name": page.name,
                "statements": page.statements,
                "p50_ms": round(page.p50, 1),
                "p95_ms": round(page.p95, 1),
            }
            for page in found.pages
        ],
    }


def purged(found: Purging) -> Row:
    """The purge's rate, and the requests beside it."""
    calm, busy = ([one / 1e3 for one in times] for times in (found.calm, found.busy))
    return {
        "deleted": found.deleted,
        "seconds": round(found.seconds, 1),
        "rows_a_second": round(found.deleted / found.seconds),
        "requests_calm": len(calm),
        "requests_busy": len(busy),
        "calm_p50_ms": _milliseconds(calm, 0.5),
        "calm_p99_ms": _milliseconds(calm, 0.99),
        "busy_p50_ms": _milliseconds(busy, 0.5),
        "busy_p99_ms": _milliseconds(busy, 0.99),
    }


def audited(logs: Sequence[Read]) -> list[Row]:
    """The logs, and the ratio of each one's peak of memory to the first's."""
    return [
        {
            "format": log.format,
            "lines": log.lines,
            "duplicates": log.duplicates,
            "lines_a_second": round(log.lines / log.seconds),
            "peak_mib": round(log.peak / (1024 if sys.platform != "darwin" else 1024**2), 1),
            "peak_ratio": round(log.peak / logs[0].peak, 2),
        }
        for log in logs
    ]
