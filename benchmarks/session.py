"""One run, from the empty database to the table."""

import argparse
import json
import logging
from typing import Any

from django.core.management import call_command
from rich.console import Console
from rich.progress import Progress

from benchmarks import (
    audit,
    cases,
    counts,
    crowd,
    figures,
    heartbeats,
    measure,
    peers,
    profiling,
    report,
    sweep,
    targets,
)
from benchmarks.cases import Kind

#: Columns that the tables need, also where there is no terminal.
WIDTH = 108


def run(options: argparse.Namespace) -> None:
    """Measure what the command line asks for, and print it."""
    logging.disable()
    call_command("migrate", run_syncdb=True, verbosity=0)
    console = Console(width=max(WIDTH, Console().width))
    if options.profile:
        profiling.run(options.profile, console)
        return
    found = _measure(options, console)
    report.show(console, found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


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
        crowds = []
        if not options.no_crowd:
            task = progress.add_task("crowds", total=len(crowd.CROWDS))
            for one in crowd.CROWDS:
                crowds.append(figures.gathered(one, crowd.gather(one)))
                progress.advance(task)
        counted = [figures.counted(counts.count(one.case)) for one in measured if not one.failure]
        task = progress.add_task("heartbeat, sweep, audit", total=3)
        heartbeat = figures.beaten(heartbeats.count())
        progress.advance(task)
        swept = figures.swept(sweep.measure(options.records)) if options.records else None
        progress.advance(task)
        audited = figures.audited(audit.measure(options.lines)) if options.lines else []
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
        "heartbeat": heartbeat,
        "sweep": swept,
        "audit": audited,
        "targets": [
            *targets.timings(timings),
            *targets.counts(counted),
            *(targets.crowds(crowds) if crowds else ()),
            *targets.heartbeat(heartbeat),
            *(targets.sweep(swept) if swept else ()),
            *(targets.audit(audited) if audited else ()),
        ],
    }
