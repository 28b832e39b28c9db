"""What must hold after any fault, told from outside: what clients were told, and what is there."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One request and what its client was told; without a status, nothing."""

    key: str
    status: int | None = None
    body: bytes = b""

    @property
    def succeeded(self) -> bool:
        """A final success: a 202 is provisional."""
        return self.status is not None and 200 <= self.status <= 299 and self.status != 202


def violations(history: Iterable[Call], effects: Mapping[str, int]) -> list[str]:
    """What went wrong: effects by key are at most one, and each success has its own, once told.

    An empty list is what every fault must leave.
    """
    told: dict[str, set[bytes]] = defaultdict(set)
    for call in history:
        if call.succeeded:
            told[call.key].add(call.body)
    found = [f"{key}: {count} effects" for key, count in effects.items() if count > 1]
    found += [f"{key}: acknowledged, and not there" for key in told if not effects.get(key)]
    found += [
        f"{key}: {len(said)} different replies" for key, said in told.items() if len(said) > 1
    ]
    keys: dict[bytes, set[str]] = defaultdict(set)
    for key, bodies in told.items():
        for body in bodies:
            keys[body].add(key)
    found += [f"one reply for {sorted(shared)}" for shared in keys.values() if len(shared) > 1]
    return found
