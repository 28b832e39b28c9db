"""Many at once: how soon a waiter wakes up, and what a storm of retries gets.

Processes of their own, each with a pool of threads, as a WSGI server has them. No module that
needs the models is imported here: the processes set Django up first.
"""

import logging
import multiprocessing
import os
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import django

from benchmarks import calls

#: Processes of a storm, and the threads of each.
PROCESSES, THREADS = 4, 8
#: Simultaneous retries under one key.
RETRIES = 20
#: Seconds: a process that hangs must end the run.
DEADLINE = 60.0


@dataclass(frozen=True)
class Crowd:
    """So many requests under each of so many keys, spread evenly over the processes."""

    name: str
    processes: int
    requests: int
    keys: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one request of a crowd got."""

    key: str
    reply: calls.Reply
    #: When the transaction committed, where this request was the one that ran.
    committed: float | None


CROWDS = (
    Crowd("wake-up", processes=2, requests=2, keys=40, settings={}),
    Crowd("storm", PROCESSES, RETRIES, keys=20, settings={"IDEMPOTENCY_MAX_WAITERS": THREADS}),
    Crowd("storm, default waiters", PROCESSES, RETRIES, keys=20, settings={}),
    Crowd(
        "storm, Redis stopped",
        PROCESSES,
        RETRIES,
        keys=20,
        settings={"IDEMPOTENCY_MAX_WAITERS": THREADS, "IDEMPOTENCY_CACHE": "stopped"},
    ),
)


def gather(crowd: Crowd) -> list[Outcome]:
    """Everything that the crowd got, in no order."""
    context = multiprocessing.get_context("spawn")  # a fork would share our connections
    keys = [str(uuid.uuid4()) for _ in range(crowd.keys)]
    barrier = context.Barrier(crowd.requests)
    results = context.Queue()
    share = crowd.requests // crowd.processes
    processes = [
        context.Process(
            target=_serve, args=(share, keys, crowd.settings, barrier, results), daemon=True
        )
        for _ in range(crowd.processes)
    ]
    for process in processes:
        process.start()
    try:
        return [outcome for _ in processes for outcome in results.get(timeout=DEADLINE)]
    finally:
        for process in processes:
            process.join(timeout=1)
            process.kill()


def _serve(
    share: int, keys: list[str], settings: Mapping[str, Any], barrier: Any, results: Any
) -> None:
    """One process: its share of the requests of each key, let go together with all others."""
    os.environ["BENCHMARK_PEERS"] = ""  # they only make the start slower
    django.setup()
    logging.disable()
    commits: dict[str, float] = import_module("benchmarks.views").commits
    application = calls.handler()

    def ask(key: str) -> Outcome:
        request = calls.environ("slow", key, f"s-{key}")
        barrier.wait(DEADLINE)
        reply = calls.send(application, request)
        return Outcome(key, reply, commits.pop(f"s-{key}", None))

    def ask_all(_: int) -> list[Outcome]:
        calls.send(application, calls.environ("protected", str(uuid.uuid4()), "warm-up"))
        return [ask(key) for key in keys]

    with calls.settings_as(**settings), ThreadPoolExecutor(THREADS) as pool:
        results.put(
            [outcome for outcomes in pool.map(ask_all, range(share)) for outcome in outcomes]
        )
