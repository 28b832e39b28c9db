"""The figures as tables for people."""

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.cases import Kind
from benchmarks.figures import Row


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print every table of a run."""
    console.print(", ".join(f"{name} {value}" for name, value in figures["environment"].items()))
    console.print(f"{figures['rounds']} rounds, interleaved; a ratio is the rounds' median")
    console.print("times are the client's, to the last byte of the reply; cpu: until it is closed")
    for kind in (Kind.REPLAY, Kind.FIRST):
        console.print(_timings(kind, figures["timings"]))
    for missing in figures["missing_peers"]:
        told = f"not measured: {missing['name']}: {missing['reason']}"
        console.print(told, style="yellow", markup=False)
    console.print(_counts(figures["counts"]))
    if figures["crowds"]:
        console.print(_crowds(figures["crowds"]))
    if figures["http"]:
        console.print(_http(figures["http"]))
    console.print(_heartbeat(figures["heartbeat"]))
    if figures["sweep"]:
        console.print(_sweep(figures["sweep"]))
        console.print(_growth(figures["growth"]))
        console.print(_pages(figures["pages"]))
        console.print(_purge(figures["purge"]))
    if figures["audit"]:
        console.print(_audit(figures["audit"]))
    for target in figures["targets"]:
        verdict = "met   " if target["met"] else "MISSED"
        style = "green" if target["met"] else "bold red"
        console.print(f"{verdict}  {target['name']}: {target['value']}", style=style)


def _timings(kind: Kind, rows: list[Row]) -> Table:
    table = _table(
        f"{kind}, against {kind.base}",
        "",
        "ratio",
        "middle half",
        "p50 us",
        "p95 us",
        "cpu us",
        "replays",
    )
    for row in rows:
        if row["kind"] not in (kind, kind.base):
            continue
        if "failure" in row:
            table.add_row(row["name"], "failed", row["failure"])
            continue
        table.add_row(
            row["name"],
            f"{row['ratio']:.2f}",
            f"{row['ratio_low']:.2f}-{row['ratio_high']:.2f}",
            str(row["p50_us"]),
            str(row["p95_us"]),
            str(row["processor_us"]),
            row["replays"],
            style="bold" if row["name"].startswith("ours") else "",
        )
    return table


def _counts(rows: list[Row]) -> Table:
    table = _table(
        "what one request asks for (not counted: a peer's own pool of database connections)",
        "",
        "",
        "Redis",
        "SQL",
        "BEGIN",
        "SAVEPOINT",
    )
    for row in rows:
        numbers = (len(row["redis"]), len(row["sql"]), row["transactions"], row["savepoints"])
        table.add_row(row["name"], row["kind"], *map(str, numbers))
    return table


def _crowds(rows: list[Row]) -> Table:
    table = _table(
        f"crowds, ms: the handler takes {rows[0]['handler_ms']:.0f}; waking counts from its commit",
        "",
        "requests",
        "served",
        "409",
        "other",
        "twice run",
        "p50 ms",
        "p99",
        "wake p50",
        "wake p99",
    )
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['keys']} x {row['requests_a_key']}",
            *(str(row[name]) for name in ("served", "refused_409", "other", "duplicates")),
            *(str(row[name]) for name in ("p50_ms", "p99_ms", "wake_up_p50_ms", "wake_up_p99_ms")),
        )
    return table


def _heartbeat(row: Row) -> Table:
    table = _table(
        "heartbeat of one execution",
        "lease s",
        "leases",
        "connections",
        "SQL",
        "a third of a lease",
    )
    numbers = (row["lease_s"], row["leases"], row["connections"], len(row["sql"]))
    table.add_row(
        ", ".join(sorted(set(row["sql"]))), *map(str, numbers), str(row["statements_a_third"])
    )
    return table


def _sweep(row: Row) -> Table:
    table = _table(
        f"sweep of {row['lost_jobs']} lost jobs", "s", "of them alone, s", "ratio", "planting s"
    )
    table.add_row(
        f"among {row['records']:,} settled, by {', '.join(row['indexes']) or 'no index'}",
        *(str(row[name]) for name in ("seconds", "seconds_alone", "ratio", "planting_s")),
    )
    return table


def _http(rows: list[Row]) -> Table:
    table = _table(
        "over HTTP, gunicorn with 2 processes; the share is of the base's requests a second",
        "",
        "",
        "requests/s",
        "share",
        "p50 ms",
        "p99 ms",
        "cpu us",
    )
    for row in rows:
        names = ("requests_a_second", "share", "p50_ms", "p99_ms", "processor_us")
        table.add_row(row["name"], row["kind"], *(str(row[name]) for name in names))
    return table


def _growth(row: Row) -> Table:
    table = _table("claim and finish, as the ledger grows", "records", "p50 us", "ratio", "middle")
    table.add_row(f"{row['few']:,}", str(row["few_us"]), "1.00", "")
    middle = f"{row['ratio_low']:.2f}-{row['ratio_high']:.2f}"
    table.add_row(f"{row['many']:,}", str(row["many_us"]), f"{row['ratio']:.2f}", middle)
    table.caption = f"a reply of {row['reply_bytes']} bytes: {row['record_bytes']} bytes a record"
    return table


def _pages(row: Row) -> Table:
    table = _table(
        f"pages of the admin, over {row['records']:,} records and {row['counters']:,} counters",
        "",
        "SQL",
        "p50 ms",
        "p95 ms",
    )
    for page in row["pages"]:
        table.add_row(
            page["name"], *(str(page[name]) for name in ("statements", "p50_ms", "p95_ms"))
        )
    return table


def _purge(row: Row) -> Table:
    table = _table(
        f"purge of {row['deleted']:,} records: {row['rows_a_second']:,} a second;"
        " first requests beside it",
        "",
        "requests",
        "p50 ms",
        "p99 ms",
    )
    for when in ("calm", "busy"):
        names = (f"requests_{when}", f"{when}_p50_ms", f"{when}_p99_ms")
        table.add_row(
            {"calm": "while it rests", "busy": "while it works"}[when],
            *(str(row[name]) for name in names),
        )
    return table


def _audit(rows: list[Row]) -> Table:
    table = _table(
        "audit of an access log", "", "lines", "duplicates", "lines/s", "peak MiB", "ratio"
    )
    for row in rows:
        numbers = (f"{row[name]:,}" for name in ("lines", "duplicates", "lines_a_second"))
        table.add_row(row["format"], *numbers, str(row["peak_mib"]), str(row["peak_ratio"]))
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE)
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table
