"""The figures: what was repeated, where, by whom and after how long. Bounded, like the window."""

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from idempotency.audit.lines import Request
from idempotency.audit.logs import Log
from idempotency.audit.repeats import EDGES, Chain

#: Endpoints and clients that are told apart: a scan for weak spots invents as many as it likes.
MAX_ENDPOINTS: Final = 10_000
MAX_CLIENTS: Final = 10_000
#: What stands for those beyond.
FURTHER: Final = "(further)"


@dataclass(slots=True)
class Tally:
    """The figures of one endpoint or one client."""

    name: str
    requests: int = 0
    #: Chains with duplicates.
    groups: int = 0
    duplicates: int = 0
    #: Chains in which a success followed an attempt that was open.
    retried: int = 0
    #: Repeats that are left out, as they got another answer.
    answered_otherwise: int = 0
    most_attempts: int = 0

    @property
    def share(self) -> float:
        """Duplicates among the requests."""
        return self.duplicates / self.requests if self.requests else 0.0

    def add(self, chain: Chain) -> None:
        """Count a chain."""
        self.duplicates += chain.duplicates
        self.groups += chain.duplicates > 0
        self.retried += chain.retried
        self.answered_otherwise += chain.ended_otherwise
        if chain.duplicates or chain.retried:
            self.most_attempts = max(self.most_attempts, chain.attempts)

    def _rank(self) -> tuple[int, int, str]:
        return (-self.duplicates, -self.retried, self.name)


@dataclass(frozen=True, slots=True)
class Protected:
    """An endpoint, and what protecting it and those before it would have saved."""

    tally: Tally
    #: Of all duplicates.
    cumulative_share: float


@dataclass(slots=True)
class Summary:
    """What was found in the logs."""

    methods: tuple[str, ...]
    #: Seconds.
    window: float
    logs: tuple[Log, ...]
    total: Tally = field(default_factory=lambda: Tally("all"))
    #: Requests whose size the log tells.
    sized: int = 0
    #: Seconds since 1970 of the earliest and the latest request.
    first: float | None = None
    last: float | None = None
    duplicate_gaps: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    retry_gaps: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    #: Requests to endpoints, and chains of clients, that are only counted together.
    further_requests: int = 0
    further_chains: int = 0
    #: As the window tells at the end.
    given_up: int = 0
    jumps: int = 0
    _endpoints: dict[str, Tally] = field(default_factory=dict)
    _clients: dict[str, Tally] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        return sum(log.lines for log in self.logs)

    @property
    def unreadable(self) -> int:
        return sum(log.unreadable for log in self.logs)

    def count(self, request: Request, endpoint: str) -> None:
        """Count a request, repeated or not."""
        self.total.requests += 1
        tally = self._endpoints.get(endpoint)
        if tally is None:
            tally = _made(self._endpoints, endpoint, MAX_ENDPOINTS)
        tally.requests += 1
        if tally.name is FURTHER:
            self.further_requests += 1
        if request.size is not None:
            self.sized += 1
        if self.first is None or self.last is None:
            self.first = self.last = request.time
        elif request.time > self.last:
            self.last = request.time
        elif request.time < self.first:
            self.first = request.time

    def add(self, chain: Chain) -> None:
        """Count a chain of repeats."""
        self.total.add(chain)
        _made(self._endpoints, chain.endpoint, MAX_ENDPOINTS).add(chain)
        if not (chain.duplicates or chain.retried):
            return
        client = _made(self._clients, chain.client, MAX_CLIENTS)
        client.requests += chain.attempts
        client.add(chain)
        if client.name is FURTHER:
            self.further_chains += 1
        for number, (duplicates, retries) in enumerate(
            zip(chain.duplicate_gaps, chain.retry_gaps, strict=True)
        ):
            self.duplicate_gaps[number] += duplicates
            self.retry_gaps[number] += retries

    def endpoints(self) -> list[Protected]:
        """Where something was repeated, most duplicates first."""
        found = sorted(
            (each for each in self._endpoints.values() if each.duplicates or each.retried),
            key=Tally._rank,
        )
        saved = accumulate(each.duplicates for each in found)
        return [
            Protected(each, so_far / (self.total.duplicates or 1))
            for each, so_far in zip(found, saved, strict=True)
        ]

    def clients(self) -> list[Tally]:
        """Who repeated something, most duplicates first."""
        return sorted(self._clients.values(), key=Tally._rank)


def _made(tallies: dict[str, Tally], name: str, most: int) -> Tally:
    """The tally of that name, a new one if there is room, or the one of all further ones."""
    found = tallies.get(name)
    if found is None:
        if len(tallies) >= most and name is not FURTHER:
            return _made(tallies, FURTHER, most)
        found = tallies[name] = Tally(name)
    return found
