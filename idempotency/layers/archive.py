"""The archive of a purge: JSON lines in a gzip file, on the disk before their batch commits."""

import base64
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from django.core.files import locks

#: Bytes read at a time while the end of an existing archive is looked for.
_CHUNK = 1024 * 1024


class ArchiveError(Exception):
    """The archive cannot be written. The message says why, and nothing was deleted."""


class Archive:
    """Appends records to a file, a gzip member a batch, so that a crash tears one batch at most.

    The torn member of a crash is cut off when the file is opened again: its batch has not
    committed, and what follows a torn member could not be read. One writer at a time.
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

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append the records; they are on the disk when this returns. Raises OSError."""
        lines = "".join(f"{_line(record)}\n" for record in records)
        if not lines:
            return
        end = self._file.tell()
        try:
            self._file.write(gzip.compress(lines.encode(), mtime=0))
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


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(
        {name: _plain(name, value) for name, value in record.items()}, separators=(",", ":")
    )


def _plain(name: str, value: Any) -> Any:
    """A column's value as JSON has it, the same from every vendor's driver."""
    if name == "holds":
        return bool(value)
    if value is None or isinstance(value, int):
        return value
    if name.endswith(("_at", "_until")):
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return aware.astimezone(UTC).isoformat()
    if name == "body":
        return base64.b64encode(bytes(value)).decode()
    if name == "fingerprint":
        return bytes(value).hex()
    text = value.decode() if isinstance(value, bytes) else value
    if name in {"headers", "fields"}:
        return json.loads(text) if text else None
    return text
