"""Judges a campaign from outside: what clients were told, beside what was committed.

A pure function of the history of calls and of the effects: as they stand in a table without any
unique constraint, and as a log in a database of its own was told of their commits. It knows nothing
of records, locks and leases.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

#: Service, caller and key: what must happen once.
Name = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and what its client was told. Without a status it was told nothing."""

    service: str
    caller: str
    key: str
    status: int | None = None
    body: bytes = b""
    replayed: bool = False
    #: Sent when the faults had ceased.
    last: bool = False
    #: Tells payloads under one key apart.
    variant: str = ""
    #: When it was sent, and when its client knew more: seconds on one clock.
    invoked: float = 0.0
    answered: float = 0.0

    @property
    def name(self) -> Name:
        return self.service, self.caller, self.key

    @property
    def is_final(self) -> bool:
        """A reply for good: a 202 is provisional."""
        return self.status is not None and 200 <= self.status <= 299 and self.status != 202

    @property
    def is_reused(self) -> bool:
        """Whether another payload has the key."""
        return self.status == 409 and b"idempotency_key_reused" in self.body


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, and where."""

    promise: str
    name: Name
    detail: str


def judge(
    history: Iterable[Call],
    effects: Mapping[Name, int],
    commits: Mapping[Name, int],
    limits: Mapping[str, float],
) -> list[Violation]:
    """Every violation of the promises; empty where all held.

    `effects` are those that stand, `commits` those that the log was told of. `limits`: seconds from
    the end of all faults in which a key of this service must have its reply.
    """
    found = []
    for counted in (effects, commits):
        found += [
            Violation("at most one effect", name, f"{count} effects")
            for name, count in counted.items()
            if count > 1
        ]
    found += [
        Violation("what is committed stays", name, "committed, and gone")
        for name in commits
        if not effects.get(name)
    ]
    calls: dict[Name, list[Call]] = defaultdict(list)
    for call in history:
        calls[call.name].append(call)
    for name, mine in calls.items():
        finals = {(call.status, call.body): call for call in mine if call.is_final}
        if len(finals) > 1:
            found.append(Violation("one reply", name, f"{len(finals)} different ones"))
        for call in finals.values():
            found += _untrue(call, effects.get(name, 0))
        found += _mistaken(name, mine)
        found += _wedged(name, [call for call in mine if call.last], limits)
    return found


def _untrue(call: Call, effects: int) -> list[Violation]:
    """What a final reply says that is not so."""
    name, said = call.name, json.loads(call.body)
    if said.get("status", "succeeded") != "succeeded":  # a job's document
        told = f"{said['status']}, and {effects} effects"
        return [Violation("a true status", name, told)] if effects else []
    found = []
    told_of = _content(call)
    if (told_of["caller"], told_of["name"]) != name[1:]:
        found.append(Violation("no reply across callers", name, f"{call.status} for {told_of}"))
    if effects == 0:
        found.append(Violation("every success is there", name, f"{call.status} acknowledged"))
    return found


def _mistaken(name: Name, calls: list[Call]) -> list[Violation]:
    """Another payload that was answered with the reply of the first."""
    for call in calls:
        content = _content(call) if call.is_final else None
        if content is not None and content.get("variant", call.variant) != call.variant:
            return [Violation("another payload is refused", name, f"{content} for {call.variant}")]
    return []


def _content(call: Call) -> Any:
    """What the handler has said; `None` of a job that has said nothing."""
    said = json.loads(call.body)
    return said["result"] if "status" in said else said


def _wedged(name: Name, last: list[Call], limits: Mapping[str, float]) -> list[Violation]:
    if not last:
        return []
    if not last[-1].is_final:
        return [Violation("nobody is wedged", name, f"at last {last[-1].status}")]
    took, limit = last[-1].answered - last[0].invoked, limits[name[0]]
    return [Violation("nobody is wedged", name, f"for {took:.1f} s")] if took > limit else []


def recovery(history: Iterable[Call]) -> dict[str, float]:
    """Seconds from the end of all faults to the reply of the slowest key, by service."""
    began: dict[Name, float] = {}
    slowest: dict[str, float] = defaultdict(float)
    for call in history:
        if call.last:
            first = began.setdefault(call.name, call.invoked)
            slowest[call.service] = max(slowest[call.service], call.answered - first)
    return dict(slowest)


def replies(history: Iterable[Call]) -> "Counter[str]":
    """How often clients were told what."""
    return Counter(_told(call) for call in history)


def _told(call: Call) -> str:
    if call.status is None:
        return "nothing"
    if call.is_reused:
        return f"{call.status} for another payload"
    return f"{call.status} replayed" if call.replayed else str(call.status)
