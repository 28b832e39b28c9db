"""The demo from start to end: one plan acted out twice, the mixin bypassed and on."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from enrollment_demo.demo import fleet, window
from enrollment_demo.demo.backing import Backing
from enrollment_demo.demo.count import ROWS, Half, Outsider
from enrollment_demo.demo.plan import Plan
from enrollment_demo.demo.report import Live
from enrollment_demo.demo.visitors import Tally


@dataclass(frozen=True)
class Outcome:
    """Both halves counted, and the services of the second, still running."""

    unprotected: Half
    protected: Half
    services: fleet.Fleet
    credentials: fleet.Credentials

    def as_json(self) -> dict[str, dict[str, Any]]:
        """The figures, in the shape that the contract fixes."""
        return {
            "unprotected": self.unprotected.as_json(),
            "protected": self.protected.as_json() | self.protected.layers_as_json(),
        }


@contextmanager
def play(plan: Plan, console: Console, *, postgres_url: str, redis_url: str) -> Iterator[Outcome]:
    """Acts out both halves; everything that was started ends with the block."""
    credentials = fleet.Credentials.new()
    with tempfile.TemporaryDirectory(prefix="idempotency-demo-") as logs, Live(console) as live:
        live.step("Starting PostgreSQL and Redis")
        with Backing(
            fleet.SERVICES, fleet.HALVES, postgres_url=postgres_url, redis_url=redis_url
        ) as backing:
            live.step("Making the services' databases")
            tokens = {visit.student: visit.token for visit in plan.visits}
            fleet.make_databases(backing, credentials, tokens)
            stage = _Stage(plan, backing, credentials, Path(logs), live)
            with stage.half(fleet.BYPASSED) as (unprotected, _):
                live.say(f"Mixin bypassed: {unprotected.duplicates} duplicate rows")
            with stage.half(fleet.PROTECTED) as (protected, services):
                live.say(f"Mixin on: {protected.duplicates} duplicate rows")
                live.stop()
                yield Outcome(unprotected, protected, services, credentials)


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

    def _count(self, services: fleet.Fleet, tally: Tally) -> Half:
        outsider = Outsider(self.credentials.service_token)
        rows = {
            kind: outsider.rows_by_student(services.origin(service), path)
            for kind, (service, path) in ROWS.items()
        }
        events = outsider.events(process.url for process in services.all)
        return Half(self.plan, tally, rows, events)
