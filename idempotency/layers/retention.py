"""The purge: deletes what is past its `purge_at`, and empties the replies of tombstones.

One walk forward along the index on (purge_at, id): first the forgotten records, each together with
its job and its steps, then on into the tombstones. It takes a window of so many index entries at a
time, each in a transaction of its own, and never begins again: what it has deleted still costs a
scan until the vacuum. Records that somebody else has locked are left alone: a claim is taking them
over, or another purge has them. Old counters go last.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from django.db import connections

from idempotency.conf import conf, seconds
from idempotency.layers import counters, ledger
from idempotency.layers.archive import Archive
from idempotency.layers.windows import FORGOTTEN, TOMBSTONES, Position, Windows

#: Records of one window. 5,000: twice as many are hardly faster, and a batch still ends within a
#: fraction of a second, which is how long a take-over of one of its keys may wait.
BATCH_SIZE: Final = 5_000
#: The same with an archive, where records and replies pass through memory.
ARCHIVE_BATCH_SIZE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has done so far; a dry run, what one would do."""

    deleted: int = 0
    emptied: int = 0
    batches: int = 0
    seconds: float = 0.0
    #: Whether the walk came to its end.
    finished: bool = False


def purge(
    *,
    using: str | None = None,
    batch_size: int = BATCH_SIZE,
    max_seconds: float | None = None,
    dry_run: bool = False,
    archive: Path | None = None,
    progress: Callable[[Purged], None] | None = None,
) -> Purged:
    """Delete forgotten records and empty tombstones, by the database's clock at the start.

    Safe beside live traffic and other purges. Each batch commits by itself, after its deleted
    records have reached the `archive`, so this must not run inside a transaction. `progress` is
    told after each batch; no batch begins after `max_seconds`.

    Tombstones are looked for up to IDEMPOTENCY_TOMBSTONE + IDEMPOTENCY_LOCK_TIMEOUT from now,
    because a finish sets `purge_at` no further behind `expires_at`: live records are not
    scanned. Where a policy's tombstone is longer, its replies stay until they come that near.

    Raises ValueError for bad arguments; ArchiveError, before anything is deleted, where the
    archive cannot be used; OSError where it fails later, and that batch is undone.
    """
    _check(batch_size, max_seconds)
    started = time.monotonic()
    sink: AbstractContextManager[Archive | None] = nullcontext()
    if archive is not None:
        batch_size = min(batch_size, ARCHIVE_BATCH_SIZE)
        sink = nullcontext() if dry_run else Archive(archive)
    span = seconds(conf.IDEMPOTENCY_TOMBSTONE) + seconds(conf.IDEMPOTENCY_LOCK_TIMEOUT)
    windows = Windows(connections[ledger.alias(using)], span)
    done = Purged()
    with sink as opened:
        for so_far in _walk(windows, batch_size, dry_run, opened):
            done = replace(so_far, seconds=time.monotonic() - started)
            if progress is not None:
                progress(done)
            if max_seconds is not None and done.seconds >= max_seconds:
                break
    if done.finished and not dry_run:
        counters.purge()
    return done


def _walk(
    windows: Windows, batch_size: int, dry_run: bool, archive: Archive | None
) -> Iterator[Purged]:
    """What was done so far, after each batch."""
    done = Purged()
    for stage, first, last in (
        (FORGOTTEN, windows.beginning, windows.now),
        (TOMBSTONES, windows.now, windows.horizon),
    ):
        start: Position | None = first
        while start is not None:
            end = windows.end(start, last, batch_size)
            if dry_run:
                count = windows.count(stage, start, end or last)
            else:
                kept = archive if stage is FORGOTTEN else None
                count = windows.change(stage, start, end or last, kept)
            done = replace(
                done,
                deleted=done.deleted + (count if stage is FORGOTTEN else 0),
                emptied=done.emptied + (count if stage is TOMBSTONES else 0),
                batches=done.batches + 1,
                finished=stage is TOMBSTONES and end is None,
            )
            yield done
            start = end


def _check(batch_size: int, max_seconds: float | None) -> None:
    if batch_size < 1:
        raise ValueError(f"The batch size must be at least 1, not {batch_size}.")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"The time limit must be longer than 0 seconds, not {max_seconds}.")
