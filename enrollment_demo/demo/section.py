"""A section imported as a job, while its clients lose patience and its worker is killed."""

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from enrollment_demo.demo.asking import Reply, post
from enrollment_demo.demo.plan import PATIENCE, Plan
from enrollment_demo.demo.services import Service, Worker

PATH = "/api/section-imports/"
#: Two hundred for the ninety visitors of a default window.
STUDENTS_PER_VISITOR = 20 / 9
#: Fewer would be in before one sees it; more than the most, the service refuses.
FEWEST, MOST = 40, 1000
#: The same request from this many clients, all under one key.
CLIENTS = 6
#: Seconds after which a client that got no final reply asks again, whatever Retry-After says.
IMPATIENCE = 0.3
#: Seconds a client tries before it gives up.
ENOUGH = 180.0
#: Part of the section that is in when the worker is killed.
KILL_AT = 0.4
#: Seconds between two looks.
PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Section:
    """What is handed in."""

    course: str
    students: tuple[str, ...]
    key: str
    #: Of each client, out of 127.0.0.0/8.
    addresses: tuple[str, ...]


def section_of(plan: Plan) -> Section:
    """The section that belongs to a plan; none of its students comes to the window."""
    size = round(len(plan.visits) * STUDENTS_PER_VISITOR)
    return Section(
        course="CS101",
        students=tuple(f"i-{n + 1:04d}" for n in range(min(MOST, max(FEWEST, size)))),
        key=f"{random.Random(plan.seed).getrandbits(128) ^ 1:032x}",
        addresses=tuple(str(IPv4Address("127.2.0.1") + client) for client in range(CLIENTS)),
    )


@dataclass
class Seen:
    """What the clients were told, together, and what became of the worker."""

    requests: int = 0
    #: Requests answered with the job's status while it was under way.
    told_to_wait: int = 0
    #: Of the job, as it was told last.
    document: dict[str, Any] = field(default_factory=dict)
    jobs: set[str] = field(default_factory=set)
    #: The final replies; of one key there should be one.
    finals: set[bytes] = field(default_factory=set)
    #: Final answers that were no document of a job, and clients that gave up.
    refusals: list[str] = field(default_factory=list)
    #: How many students were in when the worker was killed.
    in_at_kill: int | None = None
    #: Seconds from the first request to the last client's final reply.
    took: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, reply: Reply | None) -> None:
        """One try has ended, with a reply or without."""
        with self._lock:
            self.requests += 1
            if reply is None or reply.status not in {200, 202}:
                return
            self.document = json.loads(reply.body)
            self.jobs.add(self.document["id"])
            self.told_to_wait += reply.status == 202

    def done(self, reply: Reply | None) -> None:
        """One client is done, with its final reply or without."""
        with self._lock:
            if reply is None:
                self.refusals.append("no answer")
            elif reply.status == 200:
                self.finals.add(reply.body)
            else:
                self.refusals.append(f"{reply.status} {reply.body[:200].decode(errors='replace')}")

    @property
    def retries(self) -> int:
        """Those of them that came after the one that started the job."""
        return self.told_to_wait - len(self.jobs)

    @property
    def told(self) -> list[str]:
        """The last words to the clients, each once."""
        job = self.document
        last = [f"the job is {job['status']}, error {job['error']}"] if job else []
        return [*last, *sorted(set(self.refusals))]

    @property
    def progress(self) -> tuple[int, int | None]:
        """How many students are done, of how many."""
        told = self.document.get("progress") or {"done": 0, "total": None}
        return told["done"], told["total"]


def import_section(
    section: Section,
    servers: Sequence[Service],
    worker: Worker,
    token: str,
    *,
    seen: Seen,
    count: Callable[[], int],
    watch: Callable[[str], None],
) -> None:
    """Has every client hand in the section, and kills the worker once in the middle.

    Returns when each has its final reply; `seen` fills as it goes. `count` says how many students
    are in, `watch` is told what happens. Raises ServiceError where the worker ends by itself.
    """
    began = time.monotonic()
    clients = [
        threading.Thread(
            target=_ask_until_final, args=[section, servers, token, number, seen], daemon=True
        )
        for number in range(len(section.addresses))
    ]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):  # each ends by itself: clients give up
        time.sleep(PAUSE)
        worker.check()
        if seen.in_at_kill is None and (inside := count()) >= KILL_AT * len(section.students):
            worker.kill()
            seen.in_at_kill = inside
            watch(f"The worker is killed, with {inside} of {len(section.students)} students in")
            worker.start()
        watch("")
    seen.took = time.monotonic() - began


def _ask_until_final(
    section: Section, servers: Sequence[Service], token: str, number: int, seen: Seen
) -> None:
    end, server = time.monotonic() + ENOUGH, number
    while time.monotonic() < end:
        reply = post(
            servers[server % len(servers)].port,
            PATH,
            {"course": section.course, "students": section.students},
            key=section.key,
            token=token,
            address=section.addresses[number],
            patience=PATIENCE,
        )
        seen.reply(reply)
        if reply is not None and reply.final:
            seen.done(reply)
            return
        time.sleep(random.uniform(0, 2 * IMPATIENCE))
        server += 1
    seen.done(None)
