"""What has to hold, and whether it does in this run."""

from benchmarks.cases import Kind
from benchmarks.figures import Row

#: What our times may be, as multiples of the base's: a replay, a first request with Redis and
#: without it.
REPLAY_LIMIT, FIRST_LIMIT, STOPPED_LIMIT = 1.1, 1.5, 1.35
#: A replay's processor time with all sinks on, as a multiple of that with none: they do nothing but
#: reckon, and a busy machine disturbs that least.
SINKS_LIMIT = 1.03
#: SQL statements of a request for a job that runs, and of one that starts a job beside an insert.
RUNNING_LIMIT, START_LIMIT = 1, 3
#: Milliseconds from the first one's commit to a waiter's reply, p50 and p99.
WAKE_UP_P50, WAKE_UP_P99 = 5.0, 25.0
#: The p99 of a storm, as a multiple of the handler's own time.
STORM_LIMIT = 2.0
#: Seconds of a sweep over the settled records, and the index that it looks by.
SWEEP_LIMIT, SWEEP_INDEX = 1.0, "idempotency_purge_at"
#: A claim and a finish among many records against few, and the bytes of a record.
GROWTH_LIMIT, RECORD_LIMIT = 1.1, 800
#: Milliseconds of a page of the admin, p95.
PAGE_LIMIT = 200.0
#: Rows a second of the purge, and the p99 of the requests beside it against their own.
PURGE_LIMIT, BESIDE_LIMIT = 100_000, 1.5
#: Lines of the combined format a second of one processor, and how much more memory a log takes
#: that is ten times as long.
AUDIT_LINES, AUDIT_MEMORY = 100_000, 1.1


def timings(rows: list[Row]) -> list[Row]:
    """Of the requests' times."""
    ours = {(row["name"], row["kind"]): row["ratio"] for row in rows if "ratio" in row}
    replay, first = ours["ours", Kind.REPLAY], ours["ours", Kind.FIRST]
    stopped = ours["ours, Redis stopped", Kind.FIRST]
    return [
        _at_most(f"replay at most {REPLAY_LIMIT} x floor", replay, REPLAY_LIMIT),
        _at_most(f"first request at most {FIRST_LIMIT} x bare", first, FIRST_LIMIT),
        _at_most(f"the same with Redis stopped: {STOPPED_LIMIT} x", stopped, STOPPED_LIMIT),
        _sinks(rows),
        *_ahead(rows, Kind.REPLAY, replay),
        *_ahead(rows, Kind.FIRST, first),
    ]


def _sinks(rows: list[Row]) -> Row:
    """Whether a replay is as good as unchanged by those who listen."""
    used = {row["name"]: row["processor_us"] for row in rows if row["kind"] == Kind.REPLAY}
    share = round(used["ours, all sinks"] / used["ours, no sink"], 3)
    return _at_most(f"replay with all sinks at most {SINKS_LIMIT} x without", share, SINKS_LIMIT)


def _ahead(rows: list[Row], kind: Kind, ours: float) -> list[Row]:
    """Whether we are ahead of every peer that knows who asks before it replays."""
    rivals = {
        row["name"]: row["ratio"]
        for row in rows
        if row["kind"] == kind and row["replays"] == "after auth" and "ratio" in row
    }
    if not rivals:
        return []
    name, best = min(rivals.items(), key=lambda item: item[1])
    target = f"{kind} ahead of every peer that authenticates first (best: {name})"
    return [_target(target, best, ours < best)]


def counts(rows: list[Row]) -> list[Row]:
    """Of the SQL statements that requests ask for."""
    sql = {row["name"]: len(row["sql"]) for row in rows if row["name"] in _COUNTED}
    running, finished, start, bare = (sql[name] for name in _COUNTED)
    more = start - bare
    return [
        _target(
            f"retry of a running job: at most {RUNNING_LIMIT} statement",
            running,
            running <= RUNNING_LIMIT,
        ),
        _target("retry of a finished job: no statement", finished, finished == 0),
        _target(
            f"start of a job: at most {START_LIMIT} statements more than the bare view",
            more,
            more <= START_LIMIT,
        ),
    ]


def crowds(rows: list[Row]) -> list[Row]:
    """Of what the crowds got."""
    wrong = sum(row["duplicates"] + row["different_replies"] for row in rows)
    named = {row["name"]: row for row in rows}
    woken, storm = named["wake-up"], named["storm"]
    late = round(storm["p99_ms"] / storm["handler_ms"], 2)
    return [
        _target("no duplicate, no second reply in a crowd", wrong, wrong == 0),
        _at_most(f"wake-up, p50: at most {WAKE_UP_P50:g} ms", woken["wake_up_p50_ms"], WAKE_UP_P50),
        _at_most(f"wake-up, p99: at most {WAKE_UP_P99:g} ms", woken["wake_up_p99_ms"], WAKE_UP_P99),
        _at_most(f"storm, p99: at most {STORM_LIMIT:g} x the handler", late, STORM_LIMIT),
    ]


def heartbeat(row: Row) -> list[Row]:
    """Of what keeps a lease."""
    share = row["statements_a_third"]
    return [
        _target("heartbeat: one statement each third of a lease", share, round(share, 1) == 1.0)
    ]


def sweep(row: Row) -> list[Row]:
    """Of the recovery of lost jobs."""
    name = f"sweep of {row['lost_jobs']} lost jobs among {row['records']:,} settled records"
    took, indexes = row["seconds"], row["indexes"]
    return [
        _target(f"{name}: below {SWEEP_LIMIT:g} s", took, took < SWEEP_LIMIT),
        _target(f"{name}: found by its index", ", ".join(indexes), indexes == [SWEEP_INDEX]),
    ]


def growth(row: Row) -> list[Row]:
    """Of the ledger's cost and size."""
    name = f"claim and finish among {row['many']:,} records: at most {GROWTH_LIMIT} x"
    size = f"a record with a reply of {row['reply_bytes']} bytes: at most {RECORD_LIMIT} bytes"
    return [
        _at_most(f"{name} that among {row['few']:,}", row["ratio"], GROWTH_LIMIT),
        _at_most(size, row["record_bytes"], RECORD_LIMIT),
    ]


def pages(row: Row) -> list[Row]:
    """Of the admin's pages."""
    slowest = max(row["pages"], key=lambda page: float(page["p95_ms"]))
    name = f"every page of the admin at most {PAGE_LIMIT:g} ms at p95 (slowest: {slowest['name']})"
    return [_at_most(name, slowest["p95_ms"], PAGE_LIMIT)]


def purge(row: Row) -> list[Row]:
    """Of the purge, and of the requests beside it."""
    rate, beside = row["rows_a_second"], round(row["busy_p99_ms"] / row["calm_p99_ms"], 2)
    return [
        _target(f"purge: at least {PURGE_LIMIT:,} rows a second", rate, rate >= PURGE_LIMIT),
        _at_most(f"p99 beside the purge: at most {BESIDE_LIMIT} x", beside, BESIDE_LIMIT),
    ]


def audit(rows: list[Row]) -> list[Row]:
    """Of the audit of access logs."""
    _, longer, _ = rows
    speed, memory = longer["lines_a_second"], longer["peak_ratio"]
    return [
        _target(
            f"audit of a combined log: at least {AUDIT_LINES:,} lines a second",
            speed,
            speed >= AUDIT_LINES,
        ),
        _target(
            f"audit of {longer['lines']:,} lines: at most {AUDIT_MEMORY} x the memory of a tenth",
            memory,
            memory <= AUDIT_MEMORY,
        ),
    ]


_COUNTED = (
    "ours, running job",
    "ours, finished job",
    "ours, start of a job",
    "bare: view, BEGIN, INSERT, COMMIT",
)


def _target(name: str, value: float | str, met: bool) -> Row:
    return {"name": name, "value": value, "met": met}


def _at_most(name: str, value: float, limit: float) -> Row:
    return _target(name, value, value <= limit)
