"""`idempotency_stats`: what happened within some hours, and how things stand now.

Exit codes: 0 done; 1 an error; 3 done, and outcomes wait for an operator to settle them.
"""

import argparse
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections
from django.utils.connection import ConnectionDoesNotExist

from idempotency.figures import LONGEST, gather
from idempotency.figures.report import as_json, as_text
from idempotency.management.options import add_database

#: The exit code where there is something to settle.
UNKNOWN = 3


class Command(BaseCommand):
    """A shell over `idempotency.figures.gather`."""

    help = (
        "Shows how many duplicates were caught, and by what, refusals by reason, the slowest"
        " operations, what is in flight, the busiest scopes, storage and its growth. Exits with 0"
        " when done, 1 after an error, and 3 where outcomes wait for an operator to settle them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print JSON instead of tables.")
        parser.add_argument(
            "--hours",
            type=_hours,
            default=24,
            metavar="N",
            help=f"How far to look back, the running hour included; 24 by default, {LONGEST:,} at"
            " most.",
        )
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["database"] is not None:
                connections[options["database"]]
            figures = gather(options["hours"], using=options["database"])
        except ConnectionDoesNotExist as error:
            raise CommandError(f"--database: {error}") from error
        except DatabaseError as error:
            raise CommandError(f"The figures could not be read: {error}") from error
        if options["json"]:
            self.stdout.write(json.dumps(as_json(figures), indent=2))
        else:
            self.stdout.write(as_text(figures))
        if figures.unsettled.unknown:
            sys.exit(UNKNOWN)


def _hours(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours from 1 to {LONGEST}")
    return value
