"""Where our own time goes: cProfile over one kind of request.

It counts waits as well, and its own cost falls on Python's calls; the last line tells what the
same requests take without it.
"""

import cProfile
import pstats
import time
from collections import Counter
from pathlib import Path
from typing import Any

import django
import django_redis
import psycopg
import redis
import rest_framework
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import idempotency
from benchmarks.cases import Case, Kind

#: Requests in one profile: enough for a steady picture.
REQUESTS = 400
#: Functions in the table.
LINES = 40
#: Whose code a file is.
OWNERS = (idempotency, rest_framework, django_redis, redis, psycopg, django)

#: File, line and name of a function; its calls, own seconds and seconds with callees.
Function = tuple[str, int, str]
Spent = tuple[int, int, float, float, Any]


def run(kind: str, console: Console) -> None:
    """Profile our replay or first request, and print what it spends."""
    case = Case("ours", Kind.REPLAY if kind == "replay" else Kind.FIRST, "protected")
    case.seed(1)
    for _ in range(20):
        case.send(1)
    profile = cProfile.Profile()
    wall, processor = time.monotonic(), time.process_time()
    for _ in range(REQUESTS):
        case.send(1)
    spent = time.process_time() - processor
    waited = time.monotonic() - wall - spent
    profile.enable()
    for _ in range(REQUESTS):
        case.send(1)
    profile.disable()
    stats: dict[Function, Spent] = vars(pstats.Stats(profile))["stats"]
    console.print(_functions(stats))
    console.print(_owners(stats))
    console.print(
        f"our {case.kind}, unprofiled: {_us(spent)} us of processor time,"
        f" {_us(waited)} us of waiting for servers and for the processor"
    )


def _functions(stats: dict[Function, Spent]) -> Table:
    table = _table("us", "own us", "calls", "", title="by function, with its callees; ours in bold")
    rows = sorted(stats.items(), key=lambda item: item[1][3], reverse=True)
    for (file, line, name), (_, calls, own, cumulative, _) in rows[:LINES]:
        where = "" if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line} "
        bold = "bold" if _owner(file) == idempotency.__name__ else ""
        numbers = _us(cumulative), _us(own), f"{calls / REQUESTS:.1f}"
        table.add_row(*numbers, f"{where}{name}", style=bold)
    return table


def _owners(stats: dict[Function, Spent]) -> Table:
    table = _table("own us", "", title="by package; built in are waits, too")
    own: Counter[str] = Counter()
    for (file, _, _), spent in stats.items():
        own[_owner(file)] += round(spent[2] * 1e9)
    for name, nanoseconds in own.most_common():
        table.add_row(_us(nanoseconds / 1e9), name)
    return table


def _owner(file: str) -> str:
    for module in OWNERS:
        if file.startswith(str(Path(str(module.__file__)).parent) + "/"):
            return module.__name__
    return "built in" if file == "~" else "other"


def _us(seconds: float) -> str:
    return f"{seconds / REQUESTS * 1e6:.0f}"


def _table(*headings: str, title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    return table
