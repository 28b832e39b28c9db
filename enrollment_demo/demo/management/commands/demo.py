"""`manage.py demo`: shows what retries do without the layers, and with them."""

import json
import os
import secrets
import signal
import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console

from enrollment_demo.demo.backing import BackingError
from enrollment_demo.demo.plan import MOST_STUDENTS, draw
from enrollment_demo.demo.processes import ServiceError
from enrollment_demo.demo.report import table, where
from enrollment_demo.demo.run import Outcome, play
from enrollment_demo.demo.window import WindowError
from enrollment_demo.servers import ServerError

#: What can go wrong around the demo; its message says all that a traceback could.
TROUBLE = (BackingError, ServerError, ServiceError, WindowError)
#: Seconds between two looks at the services that `--serve` leaves running.
LOOK_EVERY = 1.0


class Command(BaseCommand):
    """Exits 0 only when the protected half, and the section that is imported in it, have exactly
    one row of each kind for each student."""

    help = (
        "A registration window with faults and retry storms, the mixin bypassed and then on; then"
        " a section imported as a job whose worker is killed."
    )
    requires_system_checks = ()  # it is a service's settings that we run under; we are none

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--students", type=_students, default=90, metavar="N", help="how many come [90]"
        )
        parser.add_argument("--seed", type=int, help="the plan of an earlier run")
        parser.add_argument("--serve", action="store_true", help="leave the services running")
        parser.add_argument("--json", type=_file, metavar="FILE", help="write the figures there")
        parser.add_argument(
            "--logs", type=_folder, metavar="FOLDER", help="keep the processes' logs there"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        console = Console()
        seed = secrets.randbelow(10**6) if options["seed"] is None else options["seed"]
        plan = draw(options["students"], seed)
        console.print(f"{len(plan.visits)} students, seed {plan.seed}")
        before = signal.signal(signal.SIGTERM, _end)
        try:
            with play(
                plan,
                console,
                postgres_url=os.environ.get("DATABASE_URL", ""),
                redis_url=os.environ.get("REDIS_URL", ""),
                logs=options["logs"],
            ) as outcome:
                self._report(console, outcome, options["json"])
                if options["serve"]:
                    _serve(console, outcome)
        except KeyboardInterrupt:
            raise CommandError("Interrupted; everything is shut down.", returncode=130) from None
        except TROUBLE as error:
            raise CommandError(str(error)) from error
        finally:
            signal.signal(signal.SIGTERM, before)
        if not outcome.protected.exact:
            raise CommandError("The protected half is not exact: see the rows of each kind above.")
        if not outcome.imported.exact:
            raise CommandError(
                "The section import is not exact: see its rows above."
                f" Its clients were told: {'; '.join(outcome.imported.seen.told)}."
            )

    def _report(self, console: Console, outcome: Outcome, target: Path | None) -> None:
        console.print(table(outcome.unprotected, outcome.protected, outcome.imported))
        if target is not None:
            target.write_text(json.dumps(outcome.as_json(), indent=2) + "\n")


def _serve(console: Console, outcome: Outcome) -> None:
    console.print(where(outcome.services, outcome.credentials))
    try:
        while True:
            for process in outcome.services.all:
                process.check()
            time.sleep(LOOK_EVERY)
    except KeyboardInterrupt:
        return


def _students(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_STUDENTS:
        raise ArgumentTypeError(f"from 1 to {MOST_STUDENTS}, not {text!r}")
    return int(text)


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise ArgumentTypeError(f"{text} cannot be written")
    return path


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise ArgumentTypeError(f"{text} is no folder")
    return path


def _end(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
