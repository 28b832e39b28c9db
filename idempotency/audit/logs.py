"""Logs as requests: each by itself, and several as one in the order of time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from idempotency.audit.lines import EXPECTED, Reader, Request, Unreadable
from idempotency.audit.sources import CutShort, Source, SourceError

#: Lines that could not be read are told of one by one up to this many a log.
TOLD: Final = 5
#: How much of a log is looked at before all logs are read: a log may begin with a traceback.
FIRST_LINES: Final = 1_000
FIRST_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Trouble:
    """A place in a log that could not be read, and why."""

    source: str
    #: The first is 1.
    line: int
    reason: str


class Log:
    """One log, and what reading it came to."""

    def __init__(self, source: Source, methods: frozenset[str]) -> None:
        self._source = source
        self._methods = methods
        self.lines = 0
        self.blank = 0
        self.unreadable = 0
        #: The first of the unreadable lines.
        self.troubles: list[Trouble] = []
        #: Where the log ended before its end.
        self.cut: Trouble | None = None

    @property
    def name(self) -> str:
        return self._source.name

    def begins(self) -> float:
        """The time of its first lines; of a pipe, which cannot be read twice, before all others.

        Raises SourceError where none of the first lines can be read.
        """
        if not self._source.is_file:
            return float("-inf")
        reader, lines, size = Reader(None), 0, 0
        first: Trouble | None = None
        try:
            for chunk, taken in self._source.chunks():
                for line in chunk:
                    lines += 1
                    try:
                        request = reader.read(line)
                    except Unreadable as error:
                        if first is None and line.strip():
                            first = Trouble(self.name, lines, str(error))
                    else:
                        if request is not None:
                            return request.time
                size += taken
                if lines >= FIRST_LINES or size >= FIRST_BYTES:
                    break
        except CutShort as error:
            raise SourceError(f"{self.name} cannot be read: {error}.") from error
        if first is not None:
            raise SourceError(_foreign(first))
        return float("-inf")

    def requests(self, progress: Callable[[int, int], None]) -> Iterator[Request]:
        """The requests in the log's order. Tells of lines and bytes, some thousands at a time.

        Raises SourceError where no line can be read.
        """
        read = Reader(self._methods).read
        try:
            for lines, size in self._source.chunks():
                for number, line in enumerate(lines, start=self.lines + 1):
                    try:
                        request = read(line)
                    except Unreadable as error:
                        if line.strip():
                            self.unreadable += 1
                            self._note(number, error)
                        else:
                            self.blank += 1
                    else:
                        if request is not None:
                            yield request
                self.lines += len(lines)
                progress(len(lines), size)
        except CutShort as error:
            self.cut = Trouble(self.name, self.lines, str(error))
        if self.troubles and self.unreadable + self.blank == self.lines:
            raise SourceError(_foreign(self.troubles[0]))

    def _note(self, line: int, error: Unreadable) -> None:
        if len(self.troubles) < TOLD:
            self.troubles.append(Trouble(self.name, line, str(error)))


def _foreign(first: Trouble) -> str:
    name = "Standard input" if first.source == "-" else first.source
    return f"{name} is no access log: line {first.line} is {first.reason}. {EXPECTED}"


def in_order(logs: Iterable[Log], progress: Callable[[int, int], None]) -> Iterator[Request]:
    """The requests of all logs, merged by time.

    A log is opened when the others have come to its beginning, so that of rotated ones only one
    is open at a time, and those of several servers run side by side.
    """
    waiting = deque(sorted(((log.begins(), log) for log in logs), key=lambda found: found[0]))
    running: list[tuple[float, int, Request, Iterator[Request]]] = []
    opened = 0
    while waiting or running:
        while waiting and (not running or waiting[0][0] <= running[0][0]):
            requests = waiting.popleft()[1].requests(progress)
            opened += 1
            _push(running, requests, opened)
        if running:
            _, order, request, requests = heappop(running)
            yield request
            _push(running, requests, order)


def _push(
    running: list[tuple[float, int, Request, Iterator[Request]]],
    requests: Iterator[Request],
    order: int,
) -> None:
    if (request := next(requests, None)) is not None:
        heappush(running, (request.time, order, request, requests))
