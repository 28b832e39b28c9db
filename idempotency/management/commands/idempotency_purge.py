"""`idempotency_purge`: deletes forgotten records and empties tombstones. Run it every hour or so.

With --scope it is something else: it erases one caller's records, whatever their age.

Exit codes: 0 done; 1 an error; 3 stopped by --max-seconds with work left, or an erasure that had to
leave records alone; 4 an erasure whose cached replies could not be dropped.
"""

import argparse
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections
from django.utils.connection import ConnectionDoesNotExist

from idempotency.layers import erasure
from idempotency.layers.archive import ArchiveError
from idempotency.layers.erasure import Erased, Found
from idempotency.layers.retention import BATCH_SIZE, Purged, purge
from idempotency.management.options import add_database

#: The exit code of a run that has left work undone.
UNFINISHED: Final = 3
#: The exit code of an erasure that could not reach the cache.
STILL_CACHED: Final = 4


class Command(BaseCommand):
    """A shell over `idempotency.layers.retention.purge` and `idempotency.layers.erasure.erase`."""

    help = (
        "Deletes idempotency records that are past their tombstone, and empties the stored replies"
        " of expired ones. With --scope, ERASES every settled record of one caller instead,"
        " WHATEVER ITS AGE, with its jobs, steps and cached replies; a retry under an erased key"
        " runs anew. Exits with 0 when done, 1 after an error, 3 when --max-seconds stopped it with"
        " work left or an erasure had to leave records alone, and 4 when an erasure could not reach"
        " the cache."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="Count, and change nothing.")
        parser.add_argument(
            "--batch-size",
            type=_positive(int),
            metavar="N",
            help=f"Records looked at in one transaction; {BATCH_SIZE} by default,"
            f" {erasure.BATCH_SIZE} with --scope.",
        )
        parser.add_argument(
            "--max-seconds",
            type=_positive(float),
            metavar="S",
            help="Begin no batch after so many seconds.",
        )
        parser.add_argument(
            "--scope",
            metavar="PREFIX",
            help="Erase, instead of purging: all that is settled of this caller, due or not."
            " 'user:42' is the caller and all of its narrowed spaces, 'user:42/shop.Pay.post' one"
            " of its operations; it never reaches 'user:421'.",
        )
        parser.add_argument(
            "--no-input",
            "--noinput",
            action="store_false",
            dest="interactive",
            help="With --scope: do not ask before erasing.",
        )
        parser.add_argument(
            "--archive",
            type=Path,
            metavar="FILE.jsonl.gz",
            help="Append each deleted record to this file before its deletion commits.",
        )
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["database"] is not None:
                connections[options["database"]]
            code = self._purge(options) if options["scope"] is None else self._erase(options)
        except ConnectionDoesNotExist as error:
            raise CommandError(f"--database: {error}") from error
        except (ValueError, NotImplementedError, ArchiveError, OSError, DatabaseError) as error:
            what = "purge" if options["scope"] is None else "erasure"
            raise CommandError(f"The {what} failed: {error}") from error
        if code:
            sys.exit(code)

    def _purge(self, options: dict[str, Any]) -> int:
        watched = self.stdout.isatty()
        done = purge(
            using=options["database"],
            batch_size=options["batch_size"] or BATCH_SIZE,
            max_seconds=options["max_seconds"],
            dry_run=options["dry_run"],
            archive=options["archive"],
            progress=self._show if watched else None,
        )
        if watched:
            self.stdout.write("")
        self.stdout.write(_summary(done, dry_run=options["dry_run"]))
        return 0 if done.finished else UNFINISHED

    def _erase(self, options: dict[str, Any]) -> int:
        scope, using, watched = options["scope"], options["database"], self.stdout.isatty()
        if options["archive"] is not None:
            raise CommandError("--scope erases, so it keeps no --archive of what is erased.")
        found = erasure.count(scope, using=using)
        if options["dry_run"]:
            self.stdout.write(_counted(scope, found))
            return 0
        if options["interactive"]:
            self.stdout.write(_counted(scope, found))
            self._confirm(scope)
        done = erasure.erase(
            scope,
            using=using,
            batch_size=options["batch_size"] or erasure.BATCH_SIZE,
            max_seconds=options["max_seconds"],
            progress=self._show_erased if watched else None,
        )
        if watched:
            self.stdout.write("")
        self.stdout.write(_erased(scope, done))
        if done.served_for:
            self.stderr.write(_still_cached(done.served_for))
            return STILL_CACHED
        left = done.left
        return 0 if left is not None and not (left.settled or left.unsettled) else UNFINISHED

    def _confirm(self, scope: str) -> None:
        try:
            answer = input(f"Type 'yes' to erase all that is settled of {scope}: ")
        except EOFError:
            raise CommandError(
                "Nobody is there to be asked, and nothing was erased. Look with --dry-run, then"
                " say --no-input."
            ) from None
        if answer != "yes":
            raise CommandError("Nothing was erased.")

    def _show(self, done: Purged) -> None:
        self.stdout.write(f"\r{done.deleted:,} deleted, {done.emptied:,} emptied", ending="")
        self.stdout.flush()

    def _show_erased(self, done: Erased) -> None:
        self.stdout.write(f"\r{done.deleted:,} erased", ending="")
        self.stdout.flush()


def _summary(done: Purged, *, dry_run: bool) -> str:
    verb = "would be " if dry_run else ""
    end = "" if done.finished else "; stopped by --max-seconds, there is more to do"
    return (
        f"{done.deleted} records {verb}deleted, {done.emptied} tombstones {verb}emptied,"
        f" {done.batches} batches in {done.seconds:.1f} s{end}."
    )


def _counted(scope: str, found: Found) -> str:
    return (
        f"{found.settled} records of {scope} would be erased, due or not, with their jobs, steps"
        f" and cached replies; retries under their keys would run anew.{_left_alone(found)}"
    )


def _erased(scope: str, done: Erased) -> str:
    if done.left is None:
        end = " Stopped by --max-seconds: there is more to do."
    else:
        busy = done.left.settled
        end = f" {busy} were written or locked meanwhile: erase again." if busy else ""
        end += _left_alone(done.left)
    return (
        f"{done.deleted} records of {scope} erased, {done.batches} batches in"
        f" {done.seconds:.1f} s.{end}"
    )


def _left_alone(found: Found) -> str:
    if not found.unsettled:
        return ""
    states = ", ".join(f"{number} {state.label}" for state, number in found.unsettled.items())
    return (
        f" Left alone, because they are not settled: {states}. Let them end, cancel the jobs,"
        " settle what is unknown; then erase again."
    )


def _still_cached(seconds: float) -> str:
    longest = timedelta(seconds=round(seconds))
    return (
        f"The cache did not drop the replies of the erased records: it may still serve them for up"
        f" to {longest} (h:mm:ss). Empty it, or set another IDEMPOTENCY_PREFIX; where it is"
        " LocMemCache, restart the server processes."
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
