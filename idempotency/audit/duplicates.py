"""The window: which requests repeat an earlier one, at a memory that does not grow with the log."""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from heapq import heappop, heappush
from itertools import count
from typing import Final, NamedTuple

from idempotency.audit.lines import Request
from idempotency.audit.repeats import Attempt, Chain, Following

#: Seconds by which lines may be out of order: a server logs a request where it ends, and its
#: workers do not wait for each other.
SLACK: Final = 5.0
#: Chains followed at a time: about 70 MB, and a minute of 1,600 different requests a second.
MAX_CHAINS: Final = 100_000
#: Requests that are put in order at a time.
MAX_HELD: Final = 20_000

#: Characters of a client's address and user agent that are kept.
LONGEST_CLIENT: Final = 120


class _Held(NamedTuple):
    time: float
    order: int
    key: bytes
    endpoint: str
    client: str
    attempt: Attempt


class Window:
    """Follows each request for some seconds, and tells of the chains of repeats that it finds."""

    def __init__(
        self,
        seconds: float,
        found: Callable[[Chain], None],
        *,
        max_chains: int = MAX_CHAINS,
        max_held: int = MAX_HELD,
    ) -> None:
        self._seconds = seconds
        self._found = found
        self._max_chains = max_chains
        self._max_held = max_held
        self._held: list[_Held] = []
        self._order = count()
        self._newest = float("-inf")
        self._chains: OrderedDict[bytes, Following] = OrderedDict()
        #: Chains that were given up because too many others were followed.
        self.given_up = 0
        #: How often the time went back by more than `SLACK`.
        self.jumps = 0

    def __len__(self) -> int:
        """What it keeps: chains, and requests that are put in order."""
        return len(self._chains) + len(self._held)

    def add(self, request: Request, endpoint: str) -> None:
        """Take the next request of the log."""
        time = request.time
        if time > self._newest:
            self._newest = time
        elif time < self._newest - SLACK:
            self._release(float("inf"))
            self.jumps += 1
            self._newest = time
        held = _Held(
            time,
            next(self._order),
            _key(request),
            endpoint,
            f"{request.address} {request.agent}"[:LONGEST_CLIENT].rstrip(),
            Attempt(time, request.status, request.size is not None, request.answer),
        )
        heappush(self._held, held)
        self._release(self._newest - SLACK)

    def close(self) -> None:
        """Tell of what is left at the end of the log."""
        self._release(float("inf"))
        while self._chains:
            self._close(self._chains.popitem(last=False)[1])

    def _release(self, until: float) -> None:
        while self._held and (self._held[0].time <= until or len(self._held) > self._max_held):
            self._take(heappop(self._held))

    def _take(self, held: _Held) -> None:
        self._expire(held.time)
        following = self._chains.get(held.key)
        if following is not None:
            near = abs(held.time - following.last) <= self._seconds
            otherwise = following.is_answered_otherwise(held.attempt)
            if near and not otherwise:
                following.follow(held.attempt)
                self._chains.move_to_end(held.key)
                return
            self._close(self._chains.pop(held.key), ended_otherwise=near)
        elif len(self._chains) >= self._max_chains:
            self._close(self._chains.popitem(last=False)[1])
            self.given_up += 1
        self._chains[held.key] = Following(held.endpoint, held.client, held.attempt)

    def _expire(self, time: float) -> None:
        """Close what is out of reach, on either side: the time may have jumped."""
        while self._chains:
            oldest = next(iter(self._chains.values()))
            if abs(time - oldest.last) <= self._seconds:
                return
            self._close(self._chains.popitem(last=False)[1])

    def _close(self, following: Following, *, ended_otherwise: bool = False) -> None:
        if (chain := following.chain(ended_otherwise=ended_otherwise)) is not None:
            self._found(chain)


def _key(request: Request) -> bytes:
    """What two attempts of one request share, at the same length for every request."""
    shared = (request.address, request.agent, request.method, request.path, request.size)
    return blake2b(repr(shared).encode(), digest_size=16).digest()
