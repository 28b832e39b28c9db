"""The purge of everything that is planted, and what the requests beside it feel."""

import multiprocessing
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import django

from benchmarks import calls

#: Seconds of purging, and as many of rest, in turn: both see the same machine.
PHASE = 4.0
#: Seconds between two requests beside it.
PACE = 0.005
#: Seconds for the asking process to come up or to go.
DEADLINE = 60.0

#: When it began, and how many microseconds it took.
Request = tuple[float, float]


@dataclass(frozen=True)
class Purging:
    """One walk over the ledger, with rests."""

    deleted: int
    #: Of purging, the rests aside.
    seconds: float
    #: Microseconds of the first requests beside it, while it rested and while it worked.
    calm: list[float]
    busy: list[float]


def measure() -> Purging:
    """Purge the ledger, while another process enrolls."""
    # Not above: the asking process, which imports this module, sets Django up first.
    from idempotency.layers.retention import Purged, purge  # noqa: PLC0415

    spans: list[tuple[float, float]] = []
    began = 0.0

    def rest(_: Purged) -> None:
        nonlocal began
        if (now := time.monotonic()) - began >= PHASE:
            spans.append((began, now))
            time.sleep(PHASE)
            began = time.monotonic()

    with _asked() as finish:
        time.sleep(PHASE)
        began = time.monotonic()
        done = purge(progress=rest)
        spans.append((began, time.monotonic()))
        requests = finish()
    busy = [took for at, took in requests if _within(at, spans)]
    calm = [took for at, took in requests if not _within(at, spans)]
    return Purging(done.deleted, sum(end - start for start, end in spans), calm, busy)


def _within(moment: float, spans: list[tuple[float, float]]) -> bool:
    return any(start <= moment <= end for start, end in spans)


@contextmanager
def _asked() -> Iterator[Any]:
    """Requests, one after the other, until the function that it gives is called for them."""
    context = multiprocessing.get_context("spawn")  # a fork would share our connections
    over, results = context.Event(), context.Queue()
    began = context.Event()
    process = context.Process(target=_ask, args=(began, over, results), daemon=True)
    process.start()

    def finish() -> list[Request]:
        over.set()
        found: list[Request] = results.get(timeout=DEADLINE)
        return found

    try:
        if not began.wait(DEADLINE):
            raise AssertionError("the process that asks did not come up")
        yield finish
    finally:
        process.kill()
        process.join()


def _ask(began: Any, over: Any, results: Any) -> None:
    os.environ["BENCHMARK_PEERS"] = ""  # they only make the start slower
    django.setup()
    application = calls.handler()
    requests: list[Request] = []
    while not over.wait(PACE):
        key = str(uuid.uuid4())
        reply = calls.send(application, calls.environ("protected", key, f"s-{key}"))
        if reply.status != 201:
            raise AssertionError(f"{reply.status} {reply.body!r}")
        requests.append((reply.started, reply.microseconds))
        began.set()
    results.put(requests)
