"""The three services of one half: enrollment on two processes, billing and roster on one each."""

import json
import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from enrollment_demo.demo.backing import Backing
from enrollment_demo.demo.services import Service, run_module

SERVICES = ("enrollment", "billing", "roster")
BYPASSED, PROTECTED = HALVES = ("bypassed", "protected")


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
    """The running server processes, by service."""

    processes: Mapping[str, tuple[Service, ...]]

    @property
    def all(self) -> tuple[Service, ...]:
        """Every process."""
        return tuple(process for group in self.processes.values() for process in group)

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
    processes = {
        name: tuple(
            Service(f"{name} {number}", f"settings.{name}", logs / f"{half}-{name}-{number}.log")
            for number in range(1, 3 if name == "enrollment" else 2)
        )
        for name in SERVICES
    }
    fleet = Fleet(processes)
    for name, group in processes.items():
        for service in group:
            service.env = environment(backing, credentials, name, half) | {
                "BILLING_URL": fleet.origin("billing"),
                "ROSTER_URL": fleet.origin("roster"),
                "DEMO_BYPASS_IDEMPOTENCY": "1" if half == BYPASSED else "",
            }
    with ExitStack() as stack:
        for service in fleet.all:
            stack.enter_context(service)
        for service in fleet.all:
            service.wait_until_ready(
                "/demo/counts/", {"Authorization": f"Token {credentials.service_token}"}
            )
        try:
            yield fleet
        finally:
            for service in fleet.all:  # all at once; leaving the stack waits for each
                service.stop()


def environment(backing: Backing, credentials: Credentials, name: str, half: str) -> dict[str, str]:
    """What a service reads, short of where the others are."""
    return {
        "DATABASE_URL": backing.database_url(name, half),
        "REDIS_URL": backing.redis_url(name),
        "SERVICE_TOKEN": credentials.service_token,
        "DJANGO_SECRET_KEY": credentials.secret_key,
        "IDEMPOTENCY_PREFIX": backing.run,
    }
