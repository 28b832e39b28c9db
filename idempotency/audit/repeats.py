"""A chain: one request and its repeats, and what each of them came to."""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Final, NamedTuple

#: Where the gaps between a request and its repeat are cut, in seconds. A minute belongs below:
#: it is the window that is usual.
EDGES: Final = (1.0, 5.0, 30.0, math.nextafter(60.0, math.inf))
#: Bytes by which two answers to one request differ: an id that has grown by a digit, a time
#: without its zeros.
ANSWERS_DIFFER: Final = 3

_Gaps = tuple[int, ...]
_NO_GAPS: Final[_Gaps] = (0,) * (len(EDGES) + 1)


class Attempt(NamedTuple):
    """One request of a chain."""

    time: float
    status: int
    #: Whether the log tells the request's size: all of a chain have the same one then.
    sized: bool
    #: Bytes of the response, if known.
    answer: int | None

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_open(self) -> bool:
        """Whether its client cannot know what became of it: no answer, 408, 499 or 5xx."""
        return self.status in {0, 408, 499} or self.status >= 500


@dataclass(frozen=True, slots=True)
class Chain:
    """One request and its repeats, each within the window of the one before."""

    endpoint: str
    client: str
    attempts: int
    #: Successes beyond the first: likely an effect each.
    duplicates: int
    #: Whether a success followed an attempt that was open, which may have had its effect as well.
    retried: bool
    #: Repeats by their distance from the attempt before, cut at `EDGES`.
    duplicate_gaps: _Gaps
    retry_gaps: _Gaps
    #: Whether it ended with a success of another answer: rather another request than a repeat.
    ended_otherwise: bool


class Following:
    """A chain that is being followed. Takes the same memory however long the chain grows."""

    __slots__ = (
        "_answered",
        "_attempts",
        "_client",
        "_duplicate_gaps",
        "_duplicates",
        "_endpoint",
        "_open",
        "_retry_gaps",
        "last",
    )

    def __init__(self, endpoint: str, client: str, first: Attempt) -> None:
        self._endpoint = endpoint
        self._client = client
        self._attempts = 1
        self._duplicates = 0
        self._duplicate_gaps = self._retry_gaps = _NO_GAPS
        self._open = first.is_open
        #: The latest success.
        self._answered = first if first.succeeded else None
        #: When the latest attempt was.
        self.last = first.time

    def is_answered_otherwise(self, attempt: Attempt) -> bool:
        """Whether both succeeded with different answers, and no request's size says they agree."""
        before = self._answered
        if before is None or attempt.sized or not attempt.succeeded:
            return False
        if before.answer is None or attempt.answer is None:
            return before.status != attempt.status
        apart = abs(before.answer - attempt.answer)
        return before.status != attempt.status or apart > ANSWERS_DIFFER

    def follow(self, attempt: Attempt) -> None:
        """Take the next attempt."""
        gap = abs(attempt.time - self.last)
        self._attempts += 1
        self.last = attempt.time
        if self._answered is None:
            if self._open:
                self._retry_gaps = _counted(self._retry_gaps, gap)
            self._open = self._open or attempt.is_open
        elif attempt.succeeded:
            self._duplicates += 1
            self._duplicate_gaps = _counted(self._duplicate_gaps, gap)
        if attempt.succeeded:
            self._answered = attempt

    def chain(self, *, ended_otherwise: bool = False) -> Chain | None:
        """What there is to tell; None where nothing was repeated that counts."""
        retried = self._open and self._answered is not None
        if not (self._duplicates or retried or ended_otherwise):
            return None
        return Chain(
            self._endpoint,
            self._client,
            self._attempts,
            self._duplicates,
            retried,
            self._duplicate_gaps,
            self._retry_gaps,
            ended_otherwise,
        )


def _counted(gaps: _Gaps, gap: float) -> _Gaps:
    at = bisect_right(EDGES, gap)
    return (*gaps[:at], gaps[at] + 1, *gaps[at + 1 :])
