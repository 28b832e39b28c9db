"""`idempotency_audit`: likely duplicates in access logs, before anything is protected.

Exit codes: 0 none found; 1 an error; 3 likely duplicates found.
"""

import argparse
import json
import re
import sys
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from idempotency.audit import report
from idempotency.audit.sources import SourceError
from idempotency.audit.survey import survey

#: The exit code of an audit that has found likely duplicates.
FOUND = 3
#: Seconds between two signs of life.
SHOWN_EVERY = 0.5


class Command(BaseCommand):
    """A shell over `idempotency.audit.survey.survey`."""

    help = (
        "Finds likely duplicates in the access logs of a web server: requests that the same client"
        " sent again within seconds, and that succeeded again. Reads the combined and common"
        " formats of Apache and nginx and JSON lines, plain or gzip; asks no database. Exits with 0"
        " where none were found, 1 after an error, and 3 where some were."
    )
    # A log is to be read on any machine, whatever the settings there lack.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "logs",
            nargs="+",
            metavar="LOG",
            help="Access logs of one layer (not of a proxy and the server behind it); - is"
            " standard input.",
        )
        parser.add_argument(
            "--methods",
            type=_methods,
            default=("POST",),
            metavar="POST,PATCH",
            help="Methods that count; POST by default.",
        )
        parser.add_argument(
            "--window",
            type=_seconds,
            default=60.0,
            metavar="SECONDS",
            help="How long after a request the same one counts as its repeat; 60 by default.",
        )
        parser.add_argument(
            "--top",
            type=_top,
            default=10,
            metavar="N",
            help="Endpoints and clients in the report; 10 by default.",
        )
        parser.add_argument("--json", action="store_true", help="Print JSON instead of tables.")

    def handle(self, *args: Any, **options: Any) -> None:
        self._lines = self._bytes = 0
        self._shown = time.monotonic()
        watched = self.stderr.isatty()
        try:
            found = survey(
                options["logs"],
                methods=options["methods"],
                window=options["window"],
                **({"progress": self._show} if watched else {}),
            )
        except SourceError as error:
            raise CommandError(str(error)) from error
        finally:
            if watched and self._lines:
                self._tell("")
        if options["json"]:
            self.stdout.write(json.dumps(report.as_json(found, options["top"]), indent=2))
        else:
            self.stdout.write(report.as_text(found, options["top"]))
        if found.total.duplicates:
            sys.exit(FOUND)

    def _show(self, lines: int, size: int) -> None:
        self._lines += lines
        self._bytes += size
        if time.monotonic() - self._shown >= SHOWN_EVERY:
            self._tell(f"{self._lines:,} lines, {self._bytes / 1e6:,.0f} MB")
            self._shown = time.monotonic()

    def _tell(self, text: str) -> None:
        """Replace the line on the terminal."""
        self.stderr.write(f"\r{text}\x1b[K", style_func=str, ending="")
        self.stderr.flush()


def _methods(text: str) -> tuple[str, ...]:
    methods = tuple(dict.fromkeys(each.strip().upper() for each in text.split(",")))
    if not all(re.fullmatch(r"[A-Z]+", each) for each in methods):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of methods like POST,PATCH")
    return methods


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to a day")
    return value


def _top(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value
