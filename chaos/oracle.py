"""Judges a campaign from outside: what clients were told, beside what was committed.

A pure function of the history of calls and of the effects, which are counted in a table without
any unique constraint; it knows nothing of records, locks and leases.
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

    @property
    def name(self) -> Name:
        return self.service, self.caller, self.key

    @property
    def is_final(self) -> bool:
        """A reply for good: a 202 is provisional."""
        return self.status is not None and 200 <= self.status <= 299 and self.status != 202


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, and where."""

    promise: str
    name: Name
    detail: str


def judge(history: Iterable[Call], effects: Mapping[Name, int]) -> list[Violation]:
    """Every violation of the promises; empty where all held."""
    found = [
        Violation("at most one effect", name, f"{count} effects")
        for name, count in effects.items()
        if count > 1
    ]
    calls: dict[Name, list[Call]] = defaultdict(list)
    for call in history:
        calls[call.name].append(call)
    for name, mine in calls.items():
        finals = [call for call in mine if call.is_final]
        bodies = {(call.status, call.body) for call in finals}
        if len(bodies) > 1:
            found.append(Violation("one reply", name, f"{len(bodies)} different ones"))
        for status, body in bodies:
            found += _untrue(name, status, body, effects.get(name, 0))
        last = [call for call in mine if call.last]
        if last and not last[-1].is_final:
            found.append(Violation("nobody is wedged", name, f"at last {last[-1].status}"))
    return found


def _untrue(name: Name, status: int | None, body: bytes, effects: int) -> list[Violation]:
    """What a final reply says that is not so."""
    said: Any = json.loads(body)
    if "status" in said:  # a job's document
        if said["status"] != "succeeded":
            told = f"{said['status']}, and {effects} effects"
            return [Violation("a true status", name, told)] if effects else []
        said = said["result"]
    found = []
    if (said["caller"], said["name"]) != name[1:]:
        found.append(Violation("no reply across callers", name, f"{status} for {said}"))
    if effects == 0:
        found.append(Violation("every success is there", name, f"{status} acknowledged"))
    return found


def replies(history: Iterable[Call]) -> "Counter[str]":
    """How often clients were told what."""
    return Counter(_told(call) for call in history)


def _told(call: Call) -> str:
    if call.status is None:
        return "nothing"
    return f"{call.status} replayed" if call.replayed else str(call.status)
