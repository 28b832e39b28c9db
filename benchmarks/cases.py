"""What is measured: a view, how it is asked, and what must have happened afterwards."""

import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from django_redis import get_redis_connection

from benchmarks import background, calls, listening, peers
from benchmarks.models import Enrollment
from benchmarks.views import FLOOR


class Kind(StrEnum):
    """What a request of the case does."""

    #: Sends a fixed reply from Redis.
    FLOOR = "floor"
    #: Creates without protection.
    BARE = "bare"
    #: Gets the stored reply, or how far a job is.
    REPLAY = "replay"
    #: Creates under a new key, or starts a job that will.
    FIRST = "first request"

    @property
    def base(self) -> "Kind":
        """What its time is compared with."""
        return Kind.FLOOR if self in (Kind.FLOOR, Kind.REPLAY) else Kind.BARE


class WrongReplyError(Exception):
    """A request did not do what its case says, so its time means nothing."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    name: str
    kind: Kind
    path: str
    middleware: tuple[str, ...] = ()
    #: Settings that hold while it is measured, made anew each round.
    settings: Callable[[], Mapping[str, Any]] = dict
    #: What listens to events; by default what does in a project without our extras.
    sinks: listening.Sinks = listening.COUNTERS
    #: The status of a measured reply.
    status: int = 201
    #: Whether each key has made a row by then.
    creates: bool = True
    #: What a worker does with the job of a key, before the key is used again.
    works: Callable[[str], None] | None = None
    #: Whether a peer's replay comes before or after authentication; empty for our own.
    replays: str = ""
    #: The keys that were used already, and their replies.
    seeded: dict[str, bytes] = field(default_factory=dict)

    def seed(self, size: int) -> None:
        """Run what the case will replay."""
        if self.kind is Kind.REPLAY:
            for key in [str(uuid.uuid4()) for _ in range(size)]:
                self.seeded[key] = self._first(key)
        elif self.kind is Kind.FLOOR:
            get_redis_connection("default").set(FLOOR, b'{"id":1,"student":"s","course":"CS101"}')

    def send(self, size: int) -> dict[str, calls.Reply]:
        """The replies to so many requests, by key."""
        keys = list(itertools.islice(self.seeded or _new_keys(), size))
        with calls.settings_as(**self.settings()), listening.only(self.sinks):
            return {key: self._sent(key, self.status) for key in keys}

    def check(self, replies: Mapping[str, calls.Reply]) -> None:
        """Raises WrongReplyError unless each key has its one row, if any, and its first reply."""
        students = [_student(key) for key in replies]
        made = Enrollment.objects.filter(student__in=students).values_list("student", flat=True)
        if sorted(made) != (sorted(students) if self.creates else []):
            raise WrongReplyError(f"{len(made)} rows for {len(students)} keys")
        for key, reply in replies.items():
            first = self.seeded.get(key, reply.body)
            if json.loads(reply.body) != json.loads(first):
                raise WrongReplyError(f"replayed {reply.body!r} instead of {first!r}")

    def _first(self, key: str) -> bytes:
        """What every later request under a key has to be answered with."""
        if self.works is None:
            return self._sent(key, self.status).body
        self.works(json.loads(self._sent(key, 202).body)["id"])
        return self._sent(key, self.status).body

    def _sent(self, key: str, status: int) -> calls.Reply:
        request = calls.environ(self.path, key, _student(key))
        reply = calls.send(calls.handler(self.middleware), request)
        if reply.status != status:
            raise WrongReplyError(f"{reply.status} {reply.body!r}")
        return reply


def _new_keys() -> Iterator[str]:
    while True:
        yield str(uuid.uuid4())


def _student(key: str) -> str:
    return f"s-{key}"


def _emptied() -> Mapping[str, Any]:
    """A new epoch: nothing of the old one is found, as if Redis had been emptied."""
    return {"IDEMPOTENCY_PREFIX": f"epoch-{uuid.uuid4()}"}


def _stopped() -> Mapping[str, Any]:
    return {"IDEMPOTENCY_CACHE": "stopped"}


def cases() -> list[Case]:
    """Floor, bare, ours, and the peers that can run."""
    ours = [
        Case("floor: view and one GET", Kind.FLOOR, "floor", creates=False),
        Case("bare: view, BEGIN, INSERT, COMMIT", Kind.BARE, "bare"),
        Case("ours", Kind.REPLAY, "protected"),
        Case("ours, no sink", Kind.REPLAY, "protected", sinks=listening.NONE),
        Case("ours, all sinks", Kind.REPLAY, "protected", sinks=listening.ALL),
        Case("ours, Redis emptied", Kind.REPLAY, "protected", settings=_emptied),
        Case("ours, Redis stopped", Kind.REPLAY, "protected", settings=_stopped),
        Case("ours", Kind.FIRST, "protected"),
        Case("ours, Redis stopped", Kind.FIRST, "protected", settings=_stopped),
        Case("ours, leased", Kind.FIRST, "leased"),
        Case("ours, start of a job", Kind.FIRST, "job", status=202, creates=False),
        Case(
            "ours, running job",
            Kind.REPLAY,
            "job",
            status=202,
            creates=False,
            works=background.begin,
        ),
        Case("ours, finished job", Kind.REPLAY, "job", works=background.finish),
    ]
    theirs = [
        Case(
            f"{found.peer.name} {found.version}",
            kind,
            found.peer.path,
            found.peer.middleware,
            replays=found.peer.replays,
        )
        for kind in (Kind.REPLAY, Kind.FIRST)
        for found in peers.runnable()
    ]
    return ours + theirs
