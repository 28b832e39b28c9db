"""One run, from the empty database to the table."""

import argparse
import json
import logging
from typing import Any

from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS
from rich.console import Console
from rich.progress import Progress

from benchmarks import (
    audit,
    cases,
    charts,
    counts,
    crowd,
    figures,
    growth,
    heartbeats,
    measure,
    pages,
    peers,
    profiling,
    purging,
    report,
    served,
    sweep,
    targets,
)
from benchmarks.cases import Kind

#: Columns that the tables need, also where there is no terminal.
WIDTH = 108


def run(options: argparse.Namespace) -> None:
    """Measure what the command line asks for, and print it."""
    logging.disable()
    for alias in (DEFAULT_DB_ALIAS, growth.SMALL):
        call_command("migrate", run_syncdb=True, verbosity=0, database=alias)
    console = Console(width=max(WIDTH, Console().width))
    if options.profile:
        profiling.run(options.profile, console)
        return
    found = _measure(options, console)
    report.show(console, found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.charts:
        charts.draw(found, options.charts)


def _measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    chosen = cases.cases()
    environment = figures.environment()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("rounds", total=options.rounds)
        measured = measure.run(
            chosen,
            options.rounds,
            options.seconds,
            lambda done: progress.update(task, completed=done),
        )
        crowds, http = [], []
        if not options.no_crowd:
            task = progress.add_task("crowds", total=len(crowd.CROWDS))
            for one in crowd.CROWDS:
                crowds.append(figures.gathered(one, crowd.gather(one)))
                progress.advance(task)
            task = progress.add_task("HTTP", total=1)
            http = figures.served(served.measure())
            progress.advance(task)
        counted = [figures.counted(counts.count(one.case)) for one in measured if not one.failure]
        task = progress.add_task("heartbeat", total=1)
        heartbeat = figures.beaten(heartbeats.count())
        progress.advance(task)
        ledger = _ledger(options.records, progress) if options.records else {}
        audited = []
        if options.lines:
            task = progress.add_task("audit", total=1)
            audited = figures.audited(audit.measure(options.lines))
            progress.advance(task)
    bases: dict[Kind, measure.Series] = {
        one.case.kind: one for one in measured if one.case.kind in (Kind.FLOOR, Kind.BARE)
    }
    timings = [figures.timing(one, bases) for one in measured]
    return {
        "environment": environment,
        "rounds": len(bases[Kind.FLOOR].rounds),
        "timings": timings,
        "missing_peers": [
            {"name": one.peer.name, "reason": one.reason}
            for one in peers.found()
            if isinstance(one, peers.Missing)
        ],
        "counts": counted,
        "crowds": crowds,
        "http": http,
        "heartbeat": heartbeat,
        **{part: ledger.get(part) for part in ("sweep", "growth", "pages", "purge")},
        "audit": audited,
        "targets": [
            *targets.timings(timings),
            *targets.counts(counted),
            *(targets.crowds(crowds) if crowds else ()),
            *targets.heartbeat(heartbeat),
            *(target for part in ledger for target in getattr(targets, part)(ledger[part])),
            *(targets.audit(audited) if audited else ()),
        ],
    }


def _ledger(records: int, progress: Progress) -> dict[str, figures.Row]:
    """What a ledger of so many settled records costs; each part leaves it to the next."""
    task = progress.add_task("sweep, growth, pages, purge", total=4)
    found = {"sweep": figures.swept(sweep.measure(records))}
    progress.advance(task)
    found["growth"] = figures.grown(growth.compare(records))
    progress.advance(task)
    found["pages"] = figures.paged(pages.measure(records))
    progress.advance(task)
    found["purge"] = figures.purged(purging.measure())
    progress.advance(task)
    return found
