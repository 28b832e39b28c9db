"""The students' clients: each asks, and asks again under the same key, until it is answered."""

import http.client
import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from enrollment_demo.demo.plan import PATIENCE, Trouble, Visit
from enrollment_demo.demo.relay import LOOPBACK

#: Seconds a client tries before it gives up, as an app would.
ENOUGH = 60.0
#: Statuses that mean "the same again, later".
AGAIN = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class Doors:
    """The ports of the servers: the plain ones, and those behind which things go wrong."""

    plain: tuple[int, ...]
    troubled: Mapping[Trouble, tuple[int, ...]]

    def port(self, trouble: Trouble, server: int) -> int:
        """The port of a server, for a try that has this trouble."""
        ports = self.troubled.get(trouble, self.plain)
        return ports[server % len(ports)]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    retry_after: float | None
    replayed: bool
    body: bytes

    @property
    def final(self) -> bool:
        """Whether there is nothing to ask again for."""
        return self.status not in AGAIN and not (
            self.status == 409 and self.retry_after is not None
        )


@dataclass
class Tally:
    """What all clients saw, together."""

    requests: int = 0
    #: Tries without a reply: lost, late or broken.
    lost: int = 0
    #: Milliseconds of the replies marked as replays.
    replays_ms: list[float] = field(default_factory=list)
    #: The successes that each student was told.
    answers: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    #: Final answers that were no success, as "409 course_full", and clients that gave up.
    refusals: list[str] = field(default_factory=list)
    finished: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def saw(self, reply: Reply | None, took: float) -> None:
        """One try has ended, with a reply or without."""
        with self._lock:
            self.requests += 1
            if reply is None:
                self.lost += 1
            elif reply.replayed:
                self.replays_ms.append(took * 1000)

    def told(self, visit: Visit, reply: Reply | None) -> None:
        """One client is done, with its final reply or without."""
        with self._lock:
            if reply is None:
                self.refusals.append("no answer")
            elif reply.status == 201:
                self.answers[visit.student].add(reply.body)
            else:
                self.refusals.append(f"{reply.status} {reply.body[:200].decode(errors='replace')}")

    def left(self) -> None:
        """One student's last client is done."""
        with self._lock:
            self.finished += 1


def act_out(visit: Visit, doors: Doors, tally: Tally) -> None:
    """One student's visit: one client, or a storm of them at the same moment."""
    together = threading.Barrier(visit.copies)

    def client(number: int) -> None:
        together.wait()
        tally.told(visit, _ask_until_answered(visit, doors, tally, visit.server + number))

    crowd = [
        threading.Thread(target=client, args=[number], daemon=True)
        for number in range(visit.copies)
    ]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    tally.left()


def _ask_until_answered(visit: Visit, doors: Doors, tally: Tally, server: int) -> Reply | None:
    end = time.monotonic() + ENOUGH
    trouble, patience, backoff = visit.trouble, visit.patience, 0.1
    while time.monotonic() < end:
        began = time.monotonic()
        reply = _ask(visit, doors.port(trouble, server), patience)
        tally.saw(reply, time.monotonic() - began)
        if reply is not None and reply.final:
            return reply
        asked = (reply.retry_after or 0.0) if reply is not None else 0.0
        time.sleep(asked + random.uniform(0, backoff))
        backoff = min(2.0, backoff * 2)
        # The next try goes to the next server. An impatient client learns patience, slowly.
        server += 1
        trouble = Trouble.IMPATIENT if trouble is Trouble.IMPATIENT else Trouble.NONE
        patience = min(PATIENCE, patience * 3) if trouble is Trouble.IMPATIENT else PATIENCE
    return None


def _ask(visit: Visit, port: int, patience: float) -> Reply | None:
    """One try; `None` where no reply came through."""
    connection = http.client.HTTPConnection(
        LOOPBACK, port, timeout=patience, source_address=(visit.address, 0)
    )
    try:
        connection.request(
            "POST",
            "/api/enrollments/",
            body=json.dumps({"student": visit.student, "course": visit.course}),
            headers={
                "Authorization": f"Token {visit.token}",
                "Connection": "close",
                "Content-Type": "application/json",
                "Idempotency-Key": visit.key,
            },
        )
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    after = response.getheader("Retry-After")
    return Reply(
        response.status,
        None if after is None else float(after),
        response.getheader("Idempotent-Replayed") == "true",
        body,
    )
