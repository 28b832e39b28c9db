"""`idempotency_purge`: deletes forgotten records and empties tombstones. Run it every hour or so.

Exit codes: 0 done; 1 an error; 3 stopped by --max-seconds with work left.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections
from django.utils.connection import ConnectionDoesNotExist

from idempotency.layers.archive import ArchiveError
from idempotency.layers.retention import BATCH_SIZE, Purged, purge

#: The exit code of a purge that its time limit has stopped.
UNFINISHED = 3


class Command(BaseCommand):
    """A shell over `idempotency.layers.retention.purge`."""

    help = (
        "Deletes idempotency records that are past their tombstone, and empties the stored replies"
        " of expired ones. Exits with 0 when done, 1 after an error, and 3 when --max-seconds"
        " stopped it with work left."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Count, and change nothing.")
        parser.add_argument(
            "--batch-size",
            type=_positive(int),
            default=BATCH_SIZE,
            metavar="N",
            help=f"Records looked at in one transaction; {BATCH_SIZE} by default.",
        )
        parser.add_argument(
            "--max-seconds",
            type=_positive(float),
            metavar="S",
            help="Begin no batch after so many seconds.",
        )
        parser.add_argument(
            "--scope",
            default="",
            metavar="PREFIX",
            help="Only records whose scope begins with exactly this, 'user:42/' for instance.",
        )
        parser.add_argument(
            "--archive",
            type=Path,
            metavar="FILE.jsonl.gz",
            help="Append each deleted record to this file before its deletion commits.",
        )
        parser.add_argument(
            "--database",
            metavar="ALIAS",
            help="The database of the records; the router's by default.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        watched = self.stdout.isatty()
        try:
            if options["database"] is not None:
                connections[options["database"]]
            done = purge(
                using=options["database"],
                batch_size=options["batch_size"],
                max_seconds=options["max_seconds"],
                scope_prefix=options["scope"],
                dry_run=options["dry_run"],
                archive=options["archive"],
                progress=self._show if watched else None,
            )
        except ConnectionDoesNotExist as error:
            raise CommandError(f"--database: {error}") from error
        except (ValueError, NotImplementedError, ArchiveError, OSError, DatabaseError) as error:
            raise CommandError(f"The purge failed: {error}") from error
        if watched:
            self.stdout.write("")
        self.stdout.write(_summary(done, dry_run=options["dry_run"]))
        if not done.finished:
            sys.exit(UNFINISHED)

    def _show(self, done: Purged) -> None:
        self.stdout.write(f"\r{done.deleted:,} deleted, {done.emptied:,} emptied", ending="")
        self.stdout.flush()


def _summary(done: Purged, *, dry_run: bool) -> str:
    verb = "would be " if dry_run else ""
    end = "" if done.finished else "; stopped by --max-seconds, there is more to do"
    return (
        f"{done.deleted} records {verb}deleted, {done.emptied} tombstones {verb}emptied,"
        f" {done.batches} batches in {done.seconds:.1f} s{end}."
    )


def _positive(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is no {kind.__name__} above 0")
        return value

    return parse
