"""What a campaign does and when: a pure function of its seed and its length."""

import random
from dataclasses import dataclass
from typing import Final

SERVICES: Final = ("atomic", "leased", "stepped", "once", "job")
CALLERS: Final = ("ann", "ben", "cem")
#: What goes wrong. Each is carried out, and counted, by `chaos.nemesis`.
FAULTS: Final = (
    "redis emptied",
    "redis hung",
    "redis killed",
    "redis full",
    "redis read-only",
    "redis poisoned",
    "web process killed",
    "web process suspended",
    "worker killed",
    "worker suspended",
    "connections terminated",
    "database restarted",
    "commit cut",
    "broker stopped",
)
#: Operations a second, and seconds between two faults: both cores are busy, and time is left
#: between two faults for things to be well again.
RATE: Final = 8.0
#: Share of keys that a mistaken client uses as well.
MISTAKEN: Final = 0.1
EVERY: Final = 2.5


@dataclass(frozen=True, slots=True)
class Errand:
    """One operation of one caller, and when its requests are sent, in seconds from the start."""

    service: str
    caller: str
    key: str
    #: How long its handler works.
    seconds: float
    #: The first request and its duplicates.
    sent_at: tuple[float, ...]
    #: Requests of a mistaken client: the same key, another payload.
    mistaken_at: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong when, and how long it lasts."""

    kind: str
    at: float
    lasts: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One campaign."""

    seed: int
    errands: tuple[Errand, ...]
    faults: tuple[Fault, ...]


def plan(seed: int, seconds: float) -> Plan:
    """The campaign of this seed and length: each call gives the same."""
    chance = random.Random(seed)
    errands = []
    for number in range(int(seconds * RATE)):
        start = chance.uniform(0, seconds)
        gaps = [chance.choice((0.0, 0.0, 0.01, 0.2, 1.0, 3.0)) for _ in range(chance.randint(0, 4))]
        service = chance.choices(SERVICES, (8, 4, 2, 3, 3))[0]
        # What is delivered twice is the same event: consumers compare nothing.
        mistaken = service != "once" and chance.random() < MISTAKEN
        errand = Errand(
            service=service,
            caller=chance.choice(CALLERS),
            # Callers share keys, so that a reply that crosses over shows.
            key=f"key-{number // 2}",
            seconds=chance.choice((0.0, 0.0, 0.02, 0.1, 0.4)),
            sent_at=(start, *(start + gap for gap in gaps)),
            mistaken_at=(start + chance.uniform(0, 1.0),) if mistaken else (),
        )
        errands.append(errand)
    faults, at = [], EVERY
    while at < seconds:
        for kind in chance.sample(FAULTS, len(FAULTS)):
            if at < seconds:
                faults.append(Fault(kind, at, chance.uniform(0.1, 1.5)))
            at += EVERY
    return Plan(seed, tuple(_one_a_key(errands)), tuple(faults))


def _one_a_key(errands: list[Errand]) -> list[Errand]:
    """A caller uses a key once for each service: another errand would be another payload."""
    known: dict[tuple[str, str, str], Errand] = {}
    for errand in errands:
        known.setdefault((errand.service, errand.caller, errand.key), errand)
    return sorted(known.values(), key=lambda errand: errand.sent_at)
