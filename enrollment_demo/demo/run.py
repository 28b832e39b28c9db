"""The demo from start to end: one plan acted out twice, the mixin bypassed and on; an import."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from enrollment_demo.demo import fleet, window
from enrollment_demo.demo.backing import Backing
from enrollment_demo.demo.count import ROWS, Half, Imported, Outsider
from enrollment_demo.demo.plan import Plan
from enrollment_demo.demo.report import Live
from enrollment_demo.demo.section import Seen, import_section, section_of
from enrollment_demo.demo.visitors import Tally


@dataclass(frozen=True)
class Outcome:
    """Both halves counted, and the services of the second, still running."""

    unprotected: Half
    protected: Half
    imported: Imported
    services: fleet.Fleet
    credentials: fleet.Credentials

    def as_json(self) -> dict[str, dict[str, Any]]:
        """The figures, in the shape that the contract fixes."""
        return {
            "unprotected": self.unprotected.as_json(),
            "protected": self.protected.as_json() | self.protected.layers_as_json(),
            "section_import": self.imported.as_json(),
        }


@contextmanager
def play(
    plan: Plan, console: Console, *, postgres_url: str, redis_url: str, logs: Path | None = None
) -> Iterator[Outcome]:
    """Acts out both halves; everything that was started ends with the block.

    The processes' logs are kept where `logs` names a folder for them.
    """
    credentials = fleet.Credentials.new()
    with _folder(logs) as folder, Live(console) as live:
        live.step("Starting PostgreSQL and Redis")
        with Backing(
            fleet.SERVICES, fleet.HALVES, postgres_url=postgres_url, redis_url=redis_url
        ) as backing:
            live.step("Making the services' databases")
            tokens = {visit.student: visit.token for visit in plan.visits}
            fleet.make_databases(backing, credentials, tokens)
            stage = _Stage(plan, backing, credentials, Path(folder), live)
            with stage.half(fleet.BYPASSED) as (unprotected, _):
                live.say(f"Mixin bypassed: {unprotected.duplicates} duplicate rows")
            with stage.half(fleet.PROTECTED) as (protected, services):
                live.say(f"Mixin on: {protected.duplicates} duplicate rows")
                imported = stage.section(services)
                live.say(f"Section import: {imported.duplicates} duplicate rows")
                live.stop()
                yield Outcome(unprotected, protected, imported, services, credentials)


def _folder(logs: Path | None) -> AbstractContextManager[str | Path]:
    if logs is None:
        return tempfile.TemporaryDirectory(prefix="idempotency-demo-")
    return nullcontext(logs)


@dataclass(frozen=True)
class _Stage:
    plan: Plan
    backing: Backing
    credentials: fleet.Credentials
    logs: Path
    live: Live

    @contextmanager
    def half(self, half: str) -> Iterator[tuple[Half, fleet.Fleet]]:
        """New processes, the window, the count; the processes run on while the block does."""
        name = "Mixin bypassed" if half == fleet.BYPASSED else "Mixin on"
        self.live.step(f"{name}: starting the services")
        with fleet.running(self.backing, self.credentials, half, self.logs) as services:
            self.live.step(f"{name}: registration", total=len(self.plan.visits))
            tally = Tally()

            def watch(news: str) -> None:
                self.live.show(tally)
                if news:
                    self.live.say(news)

            servers = services.processes["enrollment"]
            outage = self.backing if half == fleet.PROTECTED else None
            window.act(self.plan, servers, tally, watch, outage)
            self.live.step(f"{name}: counting")
            yield self._count(services, tally), services

    def section(self, services: fleet.Fleet) -> Imported:
        """The import, after the window, by the same services; counted."""
        if services.worker is None:
            raise AssertionError("only the protected half has a worker")
        section, seen = section_of(self.plan), Seen()
        self.live.step("Section import", total=len(section.students))
        enrollments = services.origin("enrollment"), ROWS["enrollments"][1]
        before = self._outsider.count(*enrollments)
        replays_before = self._roster_replays(services)

        def watch(news: str) -> None:
            self.live.show_import(seen)
            if news:
                self.live.say(news)

        import_section(
            section,
            services.processes["enrollment"],
            services.worker,
            self.credentials.service_token,
            seen=seen,
            count=lambda: self._outsider.count(*enrollments) - before,
            watch=watch,
        )
        self.live.step("Section import: counting")
        visitors = {visit.student for visit in self.plan.visits}
        rows = {
            kind: Counter({who: number for who, number in each.items() if who not in visitors})
            for kind, each in self._rows(services).items()
        }
        return Imported(section, seen, rows, self._roster_replays(services) - replays_before)

    def _count(self, services: fleet.Fleet, tally: Tally) -> Half:
        events = self._outsider.events(server.url for server in services.servers)
        return Half(self.plan, tally, self._rows(services), events)

    def _rows(self, services: fleet.Fleet) -> dict[str, Counter[str]]:
        return {
            kind: self._outsider.rows_by_student(services.origin(service), path)
            for kind, (service, path) in ROWS.items()
        }

    def _roster_replays(self, services: fleet.Fleet) -> int:
        events = self._outsider.events([services.origin("roster")])
        return sum(number for name, number in events.items() if name.startswith("replayed."))

    @property
    def _outsider(self) -> Outsider:
        return Outsider(self.credentials.service_token)
