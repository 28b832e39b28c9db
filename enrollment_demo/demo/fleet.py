"""The three services of one half: enrollment on two processes, billing and roster on one each.

In the protected half enrollment has a Celery worker and a beat, too.
"""

import json
import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from enrollment_demo.demo.backing import Backing
from enrollment_demo.demo.processes import Process, run_module
from enrollment_demo.demo.services import Beat, Service, Worker

SERVICES = ("enrollment", "billing", "roster")
BYPASSED, PROTECTED = HALVES = ("bypassed", "protected")

P = TypeVar("P", bound=Process)

#: Seconds. Nobody wants to watch a demo wait for the minute that a lease usually lasts.
LEASE, SWEEP_EVERY = 3, 1


@dataclass(frozen=True)
class Credentials:
    """What a run's services share and its visitors need, new with every run."""

    service_token: str
    admin_password: str
    secret_key: str

    @classmethod
    def new(cls) -> "Credentials":
        """Drawn at random."""
        return cls(*(secrets.token_urlsafe(24) for _ in range(3)))


@dataclass(frozen=True)
class Fleet:
    """The running processes: servers by service, and those that carry out enrollment's jobs."""

    processes: Mapping[str, tuple[Service, ...]]
    worker: Worker | None = None
    beat: Beat | None = None

    @property
    def servers(self) -> tuple[Service, ...]:
        """Every process that answers requests."""
        return tuple(server for group in self.processes.values() for server in group)

    @property
    def all(self) -> tuple[Process, ...]:
        """Every process."""
        return *self.servers, *(each for each in (self.worker, self.beat) if each is not None)

    def origin(self, name: str) -> str:
        """The origin of a service's first process."""
        return self.processes[name][0].url


def make_databases(backing: Backing, credentials: Credentials, tokens: Mapping[str, str]) -> None:
    """Every service's databases with tables and courses; enrollment's with the accounts too."""

    def fill(name: str, half: str) -> None:
        here = name == "enrollment"
        accounts = {
            "tokens": tokens if here else {},
            "admin": credentials.admin_password if here else "",
        }
        run_module(
            "enrollment_demo.demo.prepare",
            f"settings.{name}",
            environment(backing, credentials, name, half),
            json.dumps(accounts),
        )

    def fill_all(half: str) -> None:
        with ThreadPoolExecutor(len(SERVICES)) as pool:
            list(pool.map(lambda name: fill(name, half), SERVICES))

    backing.create_databases(fill_all)


@contextmanager
def running(backing: Backing, credentials: Credentials, half: str, logs: Path) -> Iterator[Fleet]:
    """Starts every process, yields them once all answer, and ends them in order."""
    fleet = _fleet(half, logs)
    for process in fleet.all:
        name = process.settings.removeprefix("settings.")
        process.env |= environment(backing, credentials, name, half) | {
            "BILLING_URL": fleet.origin("billing"),
            "ROSTER_URL": fleet.origin("roster"),
            "DEMO_BYPASS_IDEMPOTENCY": "1" if half == BYPASSED else "",
            "IDEMPOTENCY_LEASE": str(LEASE),
            "SWEEP_EVERY": str(SWEEP_EVERY),
        }
    with ExitStack() as stack:
        for process in fleet.all:
            stack.enter_context(process)
        for server in fleet.servers:
            server.wait_until_ready(
                "/demo/counts/", {"Authorization": f"Token {credentials.service_token}"}
            )
        try:
            yield fleet
        finally:
            for process in fleet.all:  # all at once; leaving the stack waits for each
                process.stop()


def _fleet(half: str, logs: Path) -> Fleet:
    def make(kind: type[P], name: str, service: str) -> P:
        return kind(name, f"settings.{service}", logs / f"{half}-{name.replace(' ', '-')}.log")

    servers = {
        name: tuple(
            make(Service, f"{name} {number}", name)
            for number in range(1, 3 if name == "enrollment" else 2)
        )
        for name in SERVICES
    }
    for server in (server for group in servers.values() for server in group):
        server.access_log = server.log.with_suffix(".access.log")
    if half == BYPASSED:
        return Fleet(servers)
    return Fleet(servers, make(Worker, "worker", "enrollment"), make(Beat, "beat", "enrollment"))


def environment(backing: Backing, credentials: Credentials, name: str, half: str) -> dict[str, str]:
    """What a service reads, short of where the others are."""
    return {
        "DATABASE_URL": backing.database_url(name, half),
        "REDIS_URL": backing.redis_url(name),
        "SERVICE_TOKEN": credentials.service_token,
        "DJANGO_SECRET_KEY": credentials.secret_key,
        "IDEMPOTENCY_PREFIX": backing.run,
        "CELERY_BROKER_URL": backing.broker_url if name == "enrollment" else "",
    }
