"""What a person sees: progress while it runs, the table at the end."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from enrollment_demo.demo.count import Half, Imported
from enrollment_demo.demo.fleet import Credentials, Fleet
from enrollment_demo.demo.section import Seen
from enrollment_demo.demo.visitors import Tally


class Live:
    """Progress on a terminal; quiet in a pipe. A context manager."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[seen]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._console = console
        self._task = self._progress.add_task("", total=None, seen="")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Takes the progress off the screen."""
        if self._progress.live.is_started:
            self._progress.stop()

    def step(self, what: str, total: int | None = None) -> None:
        """A new step has begun."""
        self._progress.reset(self._task, description=what, total=total, seen="")

    def say(self, what: str) -> None:
        """Something that should stay on the screen."""
        if self._console.is_terminal:
            self._console.print(what)

    def show(self, tally: Tally) -> None:
        """How far the clients are."""
        seen = (
            f"{tally.requests} requests, {tally.lost} replies lost,"
            f" {len(tally.replays_ms)} replayed"
        )
        self._progress.update(self._task, completed=tally.finished, seen=seen)

    def show_import(self, seen: Seen) -> None:
        """How far the job is, as its clients are told."""
        done, total = seen.progress
        of = "" if total is None else f" of {total}"
        status = seen.document.get("status", "not there yet")
        what = f"{status}: {done}{of}, as {seen.told_to_wait} replies said"
        self._progress.update(self._task, completed=done, seen=what)


def table(unprotected: Half, protected: Half, imported: Imported) -> Table:
    """Both halves side by side, and the section that was imported in the second."""
    halves = (unprotected, protected)
    result = Table(title="One registration window, twice", title_justify="left")
    result.add_column("")
    result.add_column("mixin bypassed", justify="right")
    result.add_column("mixin on", justify="right")

    def row(name: str, *values: object) -> None:
        result.add_row(name, *("-" if value is None else str(value) for value in values))

    row("students", *(len(half.plan.visits) for half in halves))
    row("requests", *(half.tally.requests for half in halves))
    row("  of them without a reply", *(half.tally.lost for half in halves))
    result.add_section()
    for kind in unprotected.rows:
        row(kind.replace("_", " "), *(half.rows[kind].total() for half in halves))
    row("[bold]duplicate rows[/bold]", *(half.duplicates for half in halves))
    row("students told different things", *(half.contradicted for half in halves))
    row("clients without a success", *(len(half.tally.refusals) for half in halves))
    result.add_section()
    layers = protected.layers_as_json()
    row("replayed from the cache", None, layers["replayed_from_cache"])
    row("replayed from the ledger", None, layers["replayed_from_ledger"])
    row("caught by the constraint alone", None, layers["caught_by_constraint"])
    row("replay p50, ms, as the client sees it", None, layers["p50_ms_replay"])
    row("replay p95, ms", None, layers["p95_ms_replay"])
    result.add_section()
    figures = imported.as_json()
    row("section import: students", None, figures["students"])
    row("  in when the worker was killed", None, figures["in_at_kill"])
    row("  seats asked for again after that", None, figures["redone_after_kill"])
    for kind in imported.rows:
        row(f"  {kind.replace('_', ' ')}", None, figures[kind])
    row("[bold]  duplicate rows[/bold]", None, figures["duplicates"])
    row("  retries answered while it ran", None, figures["retries_while_running"])
    row("  different final replies", None, len(imported.seen.finals))
    return result


def where(services: Fleet, credentials: Credentials) -> str:
    """Where the services are, and how to get in."""
    lines = ["The services of the second half run on; Ctrl-C ends them."]
    lines += [f"  {server.name:<13} {server.url}" for server in services.servers]
    lines += [
        f"  admin site    {services.origin('enrollment')}/admin/",
        f"                user admin, password {credentials.admin_password}",
        f"  API           Authorization: Token {credentials.service_token}",
    ]
    return "\n".join(lines)
