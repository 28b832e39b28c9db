"""Interleaved rounds: each case a few requests, then again, so that a machine's drift cancels."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.cases import Case

#: Requests a case and round: few, so that a round sees one state of the machine.
SIZE = 10
#: Rounds before the first that counts: connections, caches, an open breaker.
WARM_UP = 2


@dataclass
class Series:
    """All times of one case in microseconds, a list a round; or why there are none."""

    case: Case
    rounds: list[list[float]] = field(default_factory=list)
    #: Processor time of the same requests, without the servers'.
    processor: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def times(self) -> list[float]:
        return [one for times in self.rounds for one in times]

    @property
    def p50(self) -> float:
        return statistics.median(self.times)

    @property
    def p95(self) -> float:
        return quantile(self.times, 0.95)


@dataclass(frozen=True)
class Ratio:
    """A case against its base: the median of the rounds' ratios, and their middle half."""

    middle: float
    low: float
    high: float


def ratio(series: Series, base: Series) -> Ratio:
    """Each round against the base's same round, because both saw the same machine."""
    return compared(series.rounds, base.rounds)


def compared(rounds: list[list[float]], base: list[list[float]]) -> Ratio:
    """The same of bare figures."""
    ratios = [
        statistics.median(mine) / statistics.median(theirs)
        for mine, theirs in zip(rounds, base, strict=True)
    ]
    return Ratio(statistics.median(ratios), quantile(ratios, 0.25), quantile(ratios, 0.75))


def quantile(values: list[float], share: float) -> float:
    """The value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def run(
    cases: list[Case], rounds: int, seconds: float, tell: Callable[[int], None]
) -> list[Series]:
    """Measure all cases, for so many rounds or seconds, whichever ends first.

    A peer that fails is given up, with its reason.
    """
    measured = [Series(case) for case in cases]
    for series in measured:
        _try(series, lambda case: case.seed(SIZE))
    gc.collect()
    gc.freeze()
    deadline = time.monotonic() + seconds
    for number in range(-WARM_UP, rounds):
        if number > 0 and time.monotonic() > deadline:
            break
        for series in _rotated(measured, number):
            _measure(series, keep=number >= 0)
        tell(number + 1)
    return measured


def _rotated(measured: list[Series], number: int) -> Iterator[Series]:
    """Another one begins each round: nobody always comes after the same neighbour's commits."""
    start = number % len(measured)
    yield from measured[start:]
    yield from measured[:start]


def _measure(series: Series, *, keep: bool) -> None:
    def measure(case: Case) -> None:
        replies = case.send(SIZE)
        case.check(replies)
        if keep:
            series.rounds.append([reply.microseconds for reply in replies.values()])
            series.processor += [reply.processor * 1e6 for reply in replies.values()]

    _try(series, measure)


def _try(series: Series, step: Callable[[Case], None]) -> None:
    if series.failure:
        return
    try:
        step(series.case)
    except Exception as error:
        if not series.case.replays:  # our own must not fail
            raise
        series.failure = f"{type(error).__name__}: {error}"
