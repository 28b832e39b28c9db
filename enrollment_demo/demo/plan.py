"""Who comes when, and what goes wrong for them: drawn once, acted out in both halves."""

import random
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

#: Seconds of a window, and students a second: two busy cores still keep up with such storms.
SHORTEST = 4.0
PACE = 4.5

#: More have no address of their own in the plan's part of 127.0.0.0/8, and no time either.
MOST_STUDENTS = 10_000

#: Seconds that a try waits for its reply where no trouble is planned. Long: an overloaded server
#: is not given retries on top.
PATIENCE = 20.0

#: Part of the window in which Redis is away.
OUTAGE = (0.4, 0.7)

COURSES = ("CS101", "MA201", "PH110")


class Trouble(StrEnum):
    """What happens to a student's first try."""

    #: The same request many times at once, to all servers.
    STORM = "storm"
    #: Nothing: asked once, answered once.
    NONE = "none"
    #: The server answers, and the connection breaks before the answer is through.
    REPLY_LOST = "reply lost"
    #: The answer is so late that the client gives up first.
    REPLY_LATE = "reply late"
    #: The client gives up while the server is still at work.
    IMPATIENT = "impatient"


@dataclass(frozen=True, slots=True)
class Visit:
    """One student's errand. All its requests carry the one key."""

    student: str
    course: str
    key: str
    token: str
    #: The client's own address, out of 127.0.0.0/8.
    address: str
    #: Seconds after the window opened.
    start: float
    trouble: Trouble
    #: How many requests go out at once.
    copies: int
    #: Seconds that the first try waits for its reply.
    patience: float
    #: Index of the server that gets the first try; each further one goes to the next.
    server: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The visits of one window, in the order in which they start."""

    seed: int
    window: float
    visits: tuple[Visit, ...]

    @property
    def outage(self) -> tuple[float, float]:
        """When Redis goes and comes back, in seconds after the window opened."""
        away, back = OUTAGE
        return away * self.window, back * self.window


def draw(students: int, seed: int) -> Plan:
    """The plan that belongs to a seed."""
    rng = random.Random(seed)
    window = max(SHORTEST, students / PACE)
    troubles = [list(Trouble)[number % len(Trouble)] for number in range(students)]
    rng.shuffle(troubles)
    _storm_in_the_outage(troubles)
    visits = tuple(
        Visit(
            student=f"s-{number + 1:04d}",
            course=rng.choice(COURSES),
            key=f"{rng.getrandbits(128):032x}",
            token=f"{rng.getrandbits(160):040x}",
            address=str(IPv4Address("127.1.0.1") + number),
            start=window * (number + rng.random()) / students,
            trouble=trouble,
            copies=rng.randint(15, 20) if trouble is Trouble.STORM else 1,
            patience=_patience(trouble, rng),
            server=rng.randrange(2),
        )
        for number, trouble in enumerate(troubles)
    )
    return Plan(seed, window, visits)


def _storm_in_the_outage(troubles: list[Trouble]) -> None:
    """Swaps a storm into the middle of the outage: the ledger is to be seen alone at its work."""
    middle = int(len(troubles) * sum(OUTAGE) / 2)
    if Trouble.STORM in troubles:
        storm = troubles.index(Trouble.STORM)
        troubles[middle], troubles[storm] = troubles[storm], troubles[middle]


def _patience(trouble: Trouble, rng: random.Random) -> float:
    if trouble is Trouble.IMPATIENT:
        return rng.uniform(0.01, 0.05)
    if trouble is Trouble.REPLY_LATE:
        return rng.uniform(0.3, 0.8)
    return PATIENCE
