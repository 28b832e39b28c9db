"""The clients: they send what the plan says, and write down what they are told."""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import requests

from chaos.oracle import Call
from chaos.plan import SERVICES, Errand
from chaos.settings import IDEMPOTENCY_LEASE, IDEMPOTENCY_LOCK_TIMEOUT

#: Seconds a client waits for an answer: longer than a waiter's patience, shorter than a fault's.
TIMEOUT = 6.0
#: Requests that are under way at once.
CROWD = 32
#: Seconds between two tries of the last round.
PAUSE = 0.5
#: What tells payloads under one key apart.
RIGHT, MISTAKEN = "right", "mistaken"
#: Seconds from the end of all faults to a key's reply. A request waits at most for a lock and for
#: its own time-out; a job for its lease, doubled as often as messages were lost, and for the sweep.
LIMITS = dict.fromkeys(SERVICES, IDEMPOTENCY_LOCK_TIMEOUT + TIMEOUT) | {
    "job": IDEMPOTENCY_LEASE * 2**4 + TIMEOUT
}


class Clients:
    """Sends requests from many threads; `history` grows by one call for each."""

    def __init__(self, origin: str) -> None:
        self.history: list[Call] = []
        self._origin = origin
        self._crowd = ThreadPoolExecutor(CROWD)

    def close(self) -> None:
        """Wait for the calls that are under way."""
        self._crowd.shutdown()

    def follow(self, errands: Iterable[Errand], started: float) -> None:
        """Send each request at its time, counted from `started` on the monotonic clock."""
        sendings = [(at, RIGHT, errand) for errand in errands for at in errand.sent_at]
        sendings += [(at, MISTAKEN, errand) for errand in errands for at in errand.mistaken_at]
        for at, variant, errand in sorted(sendings, key=lambda sending: sending[0]):
            time.sleep(max(0.0, started + at - time.monotonic()))
            self._crowd.submit(self._send, errand, variant)

    def last_round(self, errands: Iterable[Errand]) -> None:
        """Ask for each key until there is a final reply, or its time is over."""
        list(self._crowd.map(self._pursue, errands))

    def _pursue(self, errand: Errand) -> None:
        variant, deadline = RIGHT, time.monotonic() + LIMITS[errand.service]
        while not (call := self._send(errand, variant, last=True)).is_final:
            if call.is_reused and errand.mistaken_at:  # the other one came first
                variant = MISTAKEN if variant == RIGHT else RIGHT
            if time.monotonic() > deadline:
                return
            time.sleep(PAUSE)

    def _send(self, errand: Errand, variant: str, *, last: bool = False) -> Call:
        call = Call(
            errand.service,
            errand.caller,
            errand.key,
            last=last,
            variant=variant,
            invoked=time.monotonic(),
        )
        told: dict[str, Any] = {}
        with suppress(requests.RequestException):  # told nothing
            answer = requests.post(
                f"{self._origin}/{errand.service}/",
                json={"name": errand.key, "seconds": errand.seconds, "variant": variant},
                headers={
                    "Idempotency-Key": errand.key,
                    "X-Caller": errand.caller,
                    "Connection": "close",
                },
                timeout=TIMEOUT,
            )
            told = {
                "status": answer.status_code,
                "body": answer.content,
                "replayed": "Idempotent-Replayed" in answer.headers,
            }
        call = replace(call, answered=time.monotonic(), **told)
        self.history.append(call)
        return call
