"""The three services as real gunicorn processes, on servers of their own."""

import os
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import requests

from enrollment_demo.demo import fleet
from enrollment_demo.demo.backing import Backing
from enrollment_demo.demo.count import Outsider
from enrollment_demo.demo.relay import LOOPBACK, Fault, Relay
from enrollment_demo.demo.services import Service

LISTS = {
    "enrollment": "/api/enrollments/",
    "billing": "/api/invoices/",
    "roster": "/api/roster-entries/",
}
#: Seconds, as in the demo: a killed worker's job is soon picked up.
RECOVERY = {"IDEMPOTENCY_LEASE": "2", "SWEEP_EVERY": "1"}


class Turnstile(Relay):
    """A relay that can let so many connections through, and hold back the answers of the rest."""

    _passing: int | None = None

    def hold_after(self, passing: int) -> None:
        self._passing = passing

    def mend(self) -> None:
        self._passing = None
        super().mend()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._passing is not None:
            self.fault = Fault.NONE if self._passing > 0 else Fault.HOLD
            self._passing -= 1
        await super()._serve(reader, writer)


@dataclass
class Sample:
    """What a test does with the services: send, list, and plant courses and prices."""

    services: dict[str, Service]
    #: Stands between enrollment and billing.
    relay: Turnstile
    backing: Backing
    #: Of two users of the enrollment service.
    tokens: dict[str, str]
    service_token: str

    def post(
        self, service: str, body: dict[str, Any], key: str = "", *, token: str = "", path: str = ""
    ) -> requests.Response:
        headers = {"Authorization": f"Token {token or self.service_token}"}
        if key:
            headers["Idempotency-Key"] = key
        url = self.services[service].url + (path or LISTS[service])
        return requests.post(url, json=body, headers=headers, timeout=30)

    def enroll(
        self, student: str, course: str = "CS101", key: str = "", token: str = ""
    ) -> requests.Response:
        body = {"student": student, "course": course}
        return self.post("enrollment", body, key, token=token or self.tokens["ann"])

    def rows(self, service: str, path: str = "", **query: str) -> list[dict[str, Any]]:
        reply = requests.get(
            self.services[service].url + (path or LISTS[service]),
            params=query,
            headers={"Authorization": f"Token {self.service_token}"},
            timeout=30,
        )
        found: list[dict[str, Any]] = reply.json()["results"]
        assert reply.json()["count"] == len(found)
        return found

    def imports(self, **query: str) -> list[dict[str, Any]]:
        return self.rows("enrollment", path="/api/section-imports/", **query)

    def counts(self, **query: str) -> tuple[int, int, int]:
        """Rows in enrollment, billing, roster."""
        enrollment, billing, roster = (len(self.rows(service, **query)) for service in LISTS)
        return enrollment, billing, roster

    def events(self, service: str) -> Counter[str]:
        """What the service's process has counted since it started."""
        return Outsider(self.service_token).events([self.services[service].url])

    def course(self, capacity: int) -> str:
        """A new course with so many seats."""
        code = f"T{uuid4().hex[:8]}"
        self.execute(
            "roster",
            "INSERT INTO roster_course (code, capacity, taken) VALUES (%s, %s, 0)",
            code,
            capacity,
        )
        self.execute(
            "enrollment",
            "INSERT INTO enrollment_course (code, title, price) VALUES (%s, 'A test', 10)",
            code,
        )
        return code

    def execute(self, service: str, statement: str, *parameters: object) -> None:
        with psycopg.connect(self.backing.database_url(service, fleet.PROTECTED)) as connection:
            connection.execute(statement.encode(), parameters)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    with running_sample(tmp_path_factory.mktemp("services")) as running:
        yield running


@contextmanager
def running_sample(logs: Path) -> Iterator[Sample]:
    """The services, on servers and with rows of their own."""
    credentials = fleet.Credentials.new()
    tokens = {"ann": uuid4().hex, "ben": uuid4().hex}
    with ExitStack() as stack:
        backing = stack.enter_context(Backing(fleet.SERVICES, [fleet.PROTECTED]))
        fleet.make_databases(backing, credentials, tokens)
        services = {
            name: Service(name, f"settings.{name}", logs / f"{name}.log") for name in fleet.SERVICES
        }
        relay = stack.enter_context(Turnstile((LOOPBACK, services["billing"].port)))
        for name, service in services.items():
            urls = {"BILLING_URL": relay.url, "ROSTER_URL": services["roster"].url}
            own = fleet.environment(backing, credentials, name, fleet.PROTECTED)
            service.env = own | urls | RECOVERY
            stack.enter_context(service)
        token = credentials.service_token
        for service in services.values():
            service.wait_until_ready("/demo/counts/", {"Authorization": f"Token {token}"})
        yield Sample(services, relay, backing, tokens, token)


@pytest.fixture
def billing_again(sample: Sample) -> Iterator[None]:
    """Mends the relay before billing, whatever the test did to it."""
    yield
    sample.relay.mend()


@pytest.fixture
def key() -> str:
    return uuid4().hex


@pytest.fixture
def student() -> str:
    return f"s-{uuid4().hex[:8]}"


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a user who names no server: the demo starts its own."""
    for name in ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE"):
        monkeypatch.delenv(name, raising=False)
    return dict(os.environ)
