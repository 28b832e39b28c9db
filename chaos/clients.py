"""The clients: they send what the plan says, and write down what they are told."""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import requests

from chaos.oracle import Call
from chaos.plan import Errand

#: Seconds a client waits for an answer: longer than a waiter's patience, shorter than a fault's.
TIMEOUT = 6.0
#: Requests that are under way at once.
CROWD = 32
#: Seconds between two tries of the last round, and for the whole of it.
PAUSE, LAST = 0.5, 60.0


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
        sendings = sorted((at, errand) for errand in errands for at in errand.sent_at)
        for at, errand in sendings:
            time.sleep(max(0.0, started + at - time.monotonic()))
            self._crowd.submit(self._send, errand)

    def last_round(self, errands: Iterable[Errand]) -> None:
        """Ask for each key until there is a final reply, or its time is over."""
        deadline = time.monotonic() + LAST
        list(self._crowd.map(lambda errand: self._pursue(errand, deadline), errands))

    def _pursue(self, errand: Errand, deadline: float) -> None:
        while not self._send(errand, last=True).is_final and time.monotonic() < deadline:
            time.sleep(PAUSE)

    def _send(self, errand: Errand, *, last: bool = False) -> Call:
        call = Call(errand.service, errand.caller, errand.key, last=last)
        try:
            answer = requests.post(
                f"{self._origin}/{errand.service}/",
                json={"name": errand.key, "seconds": errand.seconds},
                headers={
                    "Idempotency-Key": errand.key,
                    "X-Caller": errand.caller,
                    "Connection": "close",
                },
                timeout=TIMEOUT,
            )
        except requests.RequestException:
            pass  # told nothing
        else:
            call = Call(
                *call.name,
                status=answer.status_code,
                body=answer.content,
                replayed="Idempotent-Replayed" in answer.headers,
                last=last,
            )
        self.history.append(call)
        return call
