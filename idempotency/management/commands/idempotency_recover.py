"""`idempotency_recover`: picks up jobs and leases that nobody is at work on any more.

Run it every minute or so, or have Celery's beat run the task `idempotency.recover`: as often as
you like, in as many places as you like.

Exit codes: 0 done; 1 an error, or messages of jobs that could not be sent.
"""

from importlib.util import find_spec
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections
from django.utils.connection import ConnectionDoesNotExist

from idempotency import events
from idempotency.management.options import add_database
from idempotency.recovery import BATCH_SIZE, Publisher, Recovered, recover


class Command(BaseCommand):
    """A shell over `idempotency.recovery.recover`."""

    help = (
        "Sends lost messages of jobs again, takes jobs and leases from workers and requests that"
        " have died, and leaves what may not be repeated to an operator. Exits with 0 when done, 1"
        " after an error or where messages could not be sent."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--batch-size",
            type=int,
            default=BATCH_SIZE,
            metavar="N",
            help=f"Records locked in one transaction; {BATCH_SIZE} by default.",
        )
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        watched = self.stdout.isatty()
        self._found, before = 0, _unsent()
        if watched:
            events.recorded.connect(self._show)
        try:
            if options["database"] is not None:
                connections[options["database"]]
            done = recover(
                _publisher(), using=options["database"], batch_size=options["batch_size"]
            )
        except ConnectionDoesNotExist as error:
            raise CommandError(f"--database: {error}") from error
        except (ValueError, DatabaseError) as error:
            raise CommandError(f"The sweep failed: {error}") from error
        finally:
            events.recorded.disconnect(self._show)
        if self._found:
            self.stdout.write("")
        self.stdout.write(_summary(done))
        if unsent := _unsent() - before:
            why = "the broker did not take them" if _has_celery() else "Celery is not installed"
            raise CommandError(
                f"{unsent} messages of jobs could not be sent: {why}. A later sweep tries again."
            )

    def _show(self, event: events.Event, **kwargs: Any) -> None:
        if event.name != events.JOB_UNSENT:  # everything else is one find
            self._found += 1
            self.stdout.write(f"\r{self._found:,} found", ending="")
            self.stdout.flush()


def _publisher() -> Publisher:
    """What sends the messages; without Celery, leases are recovered all the same."""
    if not _has_celery():
        return _keep_back
    from celery import current_app  # noqa: PLC0415 - Celery is an extra

    from idempotency.publishing import publish  # noqa: PLC0415 - the same

    # A message goes where its job's task says, and only a worker loads the tasks by itself.
    current_app.loader.import_default_modules()
    return publish


def _keep_back(job_id: UUID, task: str, *, using: str) -> bool:
    events.record(events.Event(events.JOB_UNSENT, digest=str(job_id)))
    return False


def _has_celery() -> bool:
    return find_spec("celery") is not None


def _unsent() -> int:
    """How many messages this process could not send so far."""
    return events.counts().get(events.JOB_UNSENT, 0)


def _summary(done: Recovered) -> str:
    return (
        f"{done.resent} lost messages, {done.requeued} jobs of dead workers, {done.failed} jobs"
        f" failed, {done.abandoned} leases abandoned, {done.held} left to an operator,"
        f" {done.batches} batches in {done.seconds:.1f} s."
    )
