"""What has to hold, and whether it does in this run."""

from benchmarks.cases import Kind
from benchmarks.figures import Row

#: What the figures of this package have to reach.
REPLAY_LIMIT, FIRST_LIMIT = 1.6, 1.8
#: SQL statements of a request for a job that runs, and of one that starts a job beside an insert.
RUNNING_LIMIT, START_LIMIT = 1, 3
#: Seconds of a sweep over the settled records, and the index that it looks by.
SWEEP_LIMIT, SWEEP_INDEX = 1.0, "idempotency_purge_at"
#: Lines of the combined format a second of one processor, and how much more memory a log takes
#: that is ten times as long.
AUDIT_LINES, AUDIT_MEMORY = 100_000, 1.1


def timings(rows: list[Row]) -> list[Row]:
    """Of the requests' times."""
    ours = {row["kind"]: row["ratio"] for row in rows if row["name"] == "ours"}
    rivals = {
        row["name"]: row["ratio"]
        for row in rows
        if row["kind"] == Kind.REPLAY and row["replays"] == "after auth" and "ratio" in row
    }
    replay, first = ours[Kind.REPLAY], ours[Kind.FIRST]
    found = [
        _target(f"replay at most {REPLAY_LIMIT} x floor", replay, replay <= REPLAY_LIMIT),
        _target(f"first request at most {FIRST_LIMIT} x bare", first, first <= FIRST_LIMIT),
    ]
    if rivals:
        name, best = min(rivals.items(), key=lambda item: item[1])
        found.append(
            _target(
                f"replay ahead of every peer after authentication ({name})", best, replay < best
            )
        )
    return found


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
    return [_target("no duplicate, no second reply in a crowd", wrong, wrong == 0)]


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
