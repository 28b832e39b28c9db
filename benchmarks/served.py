"""Over HTTP: what two gunicorn processes serve in a second, by connections that are kept alive.

Those who ask share the machine with them, the same for all.
"""

import http.client
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import peers
from benchmarks.cases import Kind, WrongReplyError
from benchmarks.models import Enrollment
from enrollment_demo.demo.services import Service

#: Server processes, the threads of each, and connections that ask.
PROCESSES, THREADS, CONNECTIONS = 2, 4, 8
#: Seconds that one case is asked for in a round, and rounds.
SLICE, ROUNDS = 1.0, 6


class _Server(Service):
    def _command(self) -> Sequence[str]:
        shape = ("--workers", str(PROCESSES), "--threads", str(THREADS), "--keep-alive", "5")
        return [*super()._command(), *shape]


@dataclass
class Served:
    """One case: requests a second in each round."""

    name: str
    kind: Kind
    path: str
    rates: list[float] = field(default_factory=list)
    #: Milliseconds of each request.
    times: list[float] = field(default_factory=list)
    #: Seconds of the server processes' processor time.
    processor: float = 0.0


def measure() -> list[Served]:
    """All cases in turn, round by round; the first round only warms up."""
    found = _cases()
    keys = {one.name: [str(uuid.uuid4()) for _ in range(CONNECTIONS)] for one in found}
    with _served() as server, ThreadPoolExecutor(CONNECTIONS) as pool:
        for number in range(ROUNDS + 1):
            for case in found:
                replays = keys[case.name] if case.kind in (Kind.REPLAY, Kind.FLOOR) else None
                times, seconds, processor = _slice(server, pool, case.path, replays)
                if number:
                    case.rates.append(len(times) / seconds)
                    case.times += times
                    case.processor += processor
    return found


def _cases() -> list[Served]:
    ours = [
        Served("floor: view and one GET", Kind.FLOOR, "floor"),
        Served("bare: view, BEGIN, INSERT, COMMIT", Kind.BARE, "bare"),
        Served("ours", Kind.REPLAY, "protected"),
        Served("ours", Kind.FIRST, "protected"),
    ]
    theirs = [
        Served(f"{found.peer.name} {found.version}", kind, found.peer.path)
        for kind in (Kind.REPLAY, Kind.FIRST)
        for found in peers.runnable()
        if found.peer.distribution == "idemkit"
    ]
    return ours + theirs


@contextmanager
def _served() -> Iterator[_Server]:
    with tempfile.TemporaryDirectory() as directory:
        server = _Server("server", "benchmarks.settings", Path(directory, "log"))
        server.env |= {name: os.environ[name] for name in ("DATABASE_URL", "REDIS_URL")}
        with server:
            server.wait_until_ready("/alive/", {})
            yield server


def _slice(
    server: _Server, pool: ThreadPoolExecutor, path: str, replays: list[str] | None
) -> tuple[list[float], float, float]:
    """Milliseconds of each request, seconds of all together, and of the servers' processors."""
    before, started = _processor(server), time.monotonic()
    asked = [
        pool.submit(_ask, server.port, path, started + SLICE, replays[number] if replays else None)
        for number in range(CONNECTIONS)
    ]
    results = [one.result() for one in asked]
    seconds, processor = time.monotonic() - started, _processor(server) - before
    if path != "floor":
        _check(results)
    return [took for times, _ in results for took in times], seconds, processor


def _ask(
    port: int, path: str, deadline: float, key: str | None
) -> tuple[list[float], dict[str, set[bytes]]]:
    """One connection until the deadline, under one key or a new one each time; replies by key."""
    times: list[float] = []
    replies: dict[str, set[bytes]] = {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while time.monotonic() < deadline:
        name = key or str(uuid.uuid4())
        headers = {
            "Authorization": "Bearer benchmark",
            "Content-Type": "application/json",
            "Idempotency-Key": name,
        }
        body = json.dumps({"student": f"s-{name}", "course": "CS101"})
        started = time.monotonic()
        connection.request("POST", f"/{path}/", body, headers)
        answer = connection.getresponse()
        told = answer.read()
        times.append((time.monotonic() - started) * 1e3)
        if answer.status != 201:
            raise WrongReplyError(f"{answer.status} {told!r}")
        replies.setdefault(f"s-{name}", set()).add(told)
    connection.close()
    return times, replies


def _check(results: list[tuple[list[float], dict[str, set[bytes]]]]) -> None:
    """One row and one reply a key."""
    replies = {student: told for _, found in results for student, told in found.items()}
    made = list(Enrollment.objects.filter(student__in=list(replies)).values_list("student"))
    if len(made) != len(replies) or any(len(told) != 1 for told in replies.values()):
        raise WrongReplyError(f"{len(made)} rows and other replies for {len(replies)} keys")


def _processor(server: _Server) -> float:
    children = psutil.Process(server.pid).children()
    return sum(sum(child.cpu_times()[:2]) for child in children)
