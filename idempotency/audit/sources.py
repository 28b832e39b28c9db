"""Where logs come from: files, plain or gzip, and standard input, in chunks of whole lines."""

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol, cast

#: The name of standard input.
STANDARD_INPUT: Final = "-"
#: Bytes read at a time: a large read costs less a line, and memory for each open file.
CHUNK: Final = 256 * 1024
#: Bytes of the longest line; servers refuse a request line long before.
LONGEST: Final = 256 * 1024

_GZIP: Final = b"\x1f\x8b"


class SourceError(Exception):
    """A log cannot be read at all. The message names it and says why."""


class CutShort(Exception):
    """A log ended before its end: a torn gzip file, or a disk that failed."""


class _Readable(Protocol):
    def read1(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A log by its path, or `-`."""

    name: str

    @property
    def is_file(self) -> bool:
        """Whether it can be opened more than once: a pipe cannot."""
        return self.name != STANDARD_INPUT and stat.S_ISREG(self._stat().st_mode)

    @property
    def identity(self) -> tuple[int, int]:
        """The same for two names of one file."""
        if self.name == STANDARD_INPUT:
            return (-1, -1)
        found = self._stat()
        return (found.st_dev, found.st_ino)

    def check(self) -> None:
        """Raise SourceError unless it can be opened. Opens nothing: a pipe would notice."""
        if self.name == STANDARD_INPUT:
            return
        if stat.S_ISDIR(self._stat().st_mode):
            raise SourceError(f"{self.name} is a directory: name the log files in it.")
        if not os.access(self.name, os.R_OK):
            raise SourceError(f"{self.name} may not be read: its permissions forbid it.")

    def chunks(self) -> Iterator[tuple[list[bytes], int]]:
        """Whole lines without their ends, and the bytes that they took. Raises CutShort.

        A line that is longer than `LONGEST` comes as its end alone, which nobody can read.
        """
        with self._opened() as file:
            rest = b""
            while chunk := _read(file):
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()[-LONGEST:]
                yield lines, len(chunk)
            if rest:
                yield [rest], 0

    @contextmanager
    def _opened(self) -> Iterator[_Readable]:
        if self.name == STANDARD_INPUT:
            yield _plain(sys.stdin.buffer)
            return
        try:
            file = open(self.name, "rb")  # noqa: PTH123, SIM115 - a descriptor's path, too
        except OSError as error:
            raise SourceError(f"{self.name} cannot be read: {error.strerror}.") from error
        with file:
            yield _plain(file)

    def _stat(self) -> os.stat_result:
        try:
            return os.stat(self.name)  # noqa: PTH116 - as above
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"{self.name} cannot be read: {why}.") from error


def _plain(file: BinaryIO) -> _Readable:
    """The file, unpacked if its first bytes say that it is packed, whatever its name."""
    buffered = cast("BufferedFile", file)
    if buffered.peek(len(_GZIP))[: len(_GZIP)] == _GZIP:
        return gzip.GzipFile(fileobj=file)
    return buffered


class BufferedFile(_Readable, Protocol):
    """What `open` and standard input give."""

    def peek(self, size: int, /) -> bytes: ...


def _read(file: _Readable) -> bytes:
    try:
        return file.read1(CHUNK)
    except (OSError, EOFError, zlib.error) as error:
        why = str(error) or type(error).__name__
        raise CutShort(why.rstrip(".")) from error
