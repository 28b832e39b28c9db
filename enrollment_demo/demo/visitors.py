"""The students' clients: each asks, and asks again under the same key, until it is answered."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from enrollment_demo.demo.asking import Reply, post
from enrollment_demo.demo.plan import PATIENCE, Trouble, Visit

#: Seconds a client tries before it gives up, as an app would.
ENOUGH = 60.0


@dataclass(frozen=True, slots=True)
class Doors:
    """The ports of the servers: the plain ones, and those behind which things go wrong."""

    plain: tuple[int, ...]
    troubled: Mapping[Trouble, tuple[int, ...]]

    def port(self, trouble: Trouble, server: int) -> int:
        """The port of a server, for a try that has this trouble."""
        ports = self.troubled.get(trouble, self.plain)
        return ports[server % len(ports)]


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
        reply = post(
            doors.port(trouble, server),
            "/api/enrollments/",
            {"student": visit.student, "course": visit.course},
            key=visit.key,
            token=visit.token,
            address=visit.address,
            patience=patience,
        )
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
