"""The archive of a purge: JSON lines in a gzip file, on the disk before their batch commits."""

import base64
import gzip
import json
import os
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

from django.core.files import locks

from idempotency.layers.encryption import is_sealed

#: Bytes read at a time while the end of an existing archive is looked for.
_CHUNK = 1024 * 1024
#: gzip's level. 3: a third of the time of its default, 9, for a file that is an eighth larger.
_LEVEL: Final = 3


class ArchiveError(Exception):
    """The archive cannot be written. The message says why, and nothing was deleted."""


class Archive:
    """Appends records to a file, a gzip member a batch, so that a crash tears one batch at most.

    The torn member of a crash is cut off when the file is opened again: its batch has not
    committed, and what follows a torn member could not be read. One writer at a time.

    Each deleted record is here at least once. Twice where the process or the database dies between
    the archive and the commit: its batch is still in the ledger, and the next purge archives it
    again. Whoever reads it takes one line of each `id`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "Archive":
        try:
            self._file: BinaryIO = self._path.open("a+b")
        except OSError as error:
            raise ArchiveError(f"{self._path} cannot be written: {error.strerror}.") from error
        try:
            if not locks.lock(self._file, locks.LOCK_EX | locks.LOCK_NB):
                raise ArchiveError(f"{self._path} is in use by another purge: name another file.")
            self._file.truncate(_whole_members(self._file, self._path))
            self._file.seek(0, os.SEEK_END)
            _sync_directory(self._path.parent)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Append records; they are on the disk when this returns. Raises OSError."""
        if not rows:
            return
        lines = _lines(columns, rows)
        end = self._file.tell()
        try:
            self._file.write(gzip.compress(lines.encode(), _LEVEL, mtime=0))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)  # a full disk must not leave a torn member
            raise


def _whole_members(file: BinaryIO, path: Path) -> int:
    """Where the last whole member ends. Raises ArchiveError where the file is no archive."""
    file.seek(0)
    end = 0
    pending = file.read(_CHUNK)
    while pending:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        length = 0
        while pending and not member.eof:
            try:
                member.decompress(pending)
            except zlib.error as error:
                raise ArchiveError(
                    f"{path} holds something else than a whole gzip archive at byte {end}:"
                    " name another file."
                ) from error
            length += len(pending) - len(member.unused_data)
            pending = member.unused_data or file.read(_CHUNK)
        if not member.eof:
            break
        end += length
    return end


def _sync_directory(directory: Path) -> None:
    """A new file is safe when its directory's entry is."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


#: Made once: `json.dumps` would make one for each line.
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def _lines(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A line a record; the same from every vendor's driver."""
    found = [(place, _converter(name)) for place, name in enumerate(columns)]
    converters = [(place, convert) for place, convert in found if convert is not None]
    lines = []
    for row in rows:
        values = list(row)
        for place, convert in converters:
            if values[place] is not None:
                values[place] = convert(values[place])
        lines.append(_encode(dict(zip(columns, values, strict=True))))
    return "\n".join((*lines, ""))


def _converter(name: str) -> Callable[[Any], Any] | None:
    """What makes JSON of a column's values; `None` where they are numbers or text already."""
    if name.endswith(("_at", "_until")):
        return _moment
    return _CONVERTERS.get(name)


def _moment(value: datetime | str) -> str:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _parsed(text: str) -> Any:
    if is_sealed(text):  # the headers of an encrypted reply, which stays encrypted here
        return text
    return json.loads(text) if text else None


_CONVERTERS: Final[dict[str, Callable[[Any], Any]]] = {
    "scope": _text,
    "key": _text,
    "holds": bool,
    "fingerprint": lambda value: bytes(value).hex(),
    "fields": _parsed,
    "headers": _parsed,
    "body": lambda value: base64.b64encode(value).decode(),
}
