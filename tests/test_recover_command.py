"""`idempotency_recover`: what it finds and says, also where nothing can be sent."""

import io
import os
import subprocess
import sys
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from idempotency.layers.jobs import MAX_ATTEMPTS
from idempotency.models import IdempotencyRecord, Job, JobStatus, State
from tests.factories import JobFactory, RecordFactory
from tests.jobs import lapse
from tests.served import database_url
from tests.worked.broker import BreakableBroker, Broker
from tests.worked.messages import Messages

pytestmark = pytest.mark.django_db(transaction=True)


def command(*arguments: str) -> str:
    out = io.StringIO()
    call_command("idempotency_recover", *arguments, stdout=out)
    return out.getvalue()


def statuses() -> list[str]:
    return sorted(Job.objects.values_list("status", flat=True))


def states() -> list[str]:
    return sorted(IdempotencyRecord.objects.values_list("state", flat=True))


@pytest.fixture
def no_celery(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which Celery is not installed, as far as an import can tell."""
    monkeypatch.setitem(sys.modules, "celery", None)


def test_it_says_what_it_found_in_one_line(messages: Messages) -> None:
    JobFactory.create_batch(2)
    JobFactory.create(running=True)
    JobFactory.create(running=True, attempts=MAX_ATTEMPTS)
    JobFactory.create(running=True, record__holds=True)
    RecordFactory.create_batch(3, lapsed=True)
    lapse()
    out = command("--batch-size", "3", "--database", "default")
    assert out.startswith(
        "2 lost messages, 1 jobs of dead workers, 1 jobs failed, 3 leases abandoned,"
        " 1 left to an operator, 3 batches in "
    )
    assert out.count("\n") == 1
    assert "\r" not in out
    assert len(messages) == 3


def test_what_is_alive_is_left_alone(messages: Messages) -> None:
    JobFactory.create()
    JobFactory.create(running=True)
    RecordFactory.create(leased=True)
    assert command().startswith("0 lost messages, 0 jobs of dead workers, 0 jobs failed, 0 leases")
    assert (statuses(), len(messages)) == ([JobStatus.QUEUED, JobStatus.RUNNING], 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "batch size must be at least 1"),
        (["--batch-size", "many"], "--batch-size"),
        (["--database", "nowhere"], "nowhere"),
    ],
)
def test_it_refuses_bad_arguments(messages: Messages, arguments: list[str], message: str) -> None:
    JobFactory.create()
    lapse()
    with pytest.raises(CommandError, match=message) as refused:
        command(*arguments)
    assert refused.value.returncode == 1
    assert len(messages) == 0


def test_it_shows_progress_on_a_terminal(messages: Messages) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    JobFactory.create_batch(2)
    lapse()
    out = Terminal()
    call_command("idempotency_recover", stdout=out)
    shown, summary = out.getvalue().rstrip("\n").split("\n")
    assert shown == "\r1 found\r2 found"
    assert summary.startswith("2 lost messages")


def test_a_terminal_is_no_longer_written_to_afterwards(messages: Messages) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    call_command("idempotency_recover", stdout=out)
    JobFactory.create()
    lapse()
    command()
    assert "found" not in out.getvalue()


# Messages that cannot be sent


def test_without_celery_leases_are_recovered_and_jobs_are_named(no_celery: None) -> None:
    JobFactory.create()
    RecordFactory.create(lapsed=True)
    lapse()
    with pytest.raises(CommandError, match=r"1 messages.*Celery is not installed") as refused:
        command()
    assert refused.value.returncode == 1
    assert (states(), statuses()) == ([State.ABANDONED, State.JOB], [JobStatus.QUEUED])


def test_without_celery_and_without_jobs_all_is_well(no_celery: None) -> None:
    RecordFactory.create(lapsed=True)
    assert "1 leases abandoned" in command()


def test_a_job_that_no_message_was_sent_for_is_found_again(
    no_celery: None, monkeypatch: pytest.MonkeyPatch, messages: Messages
) -> None:
    JobFactory.create(running=True)
    lapse()
    with pytest.raises(CommandError):
        command()
    monkeypatch.undo()
    lapse()
    assert command().startswith("1 lost messages")
    assert len(messages) == 1


def test_a_broker_that_is_away_is_an_error(breakable_broker: BreakableBroker) -> None:
    JobFactory.create_batch(2)
    lapse()
    breakable_broker.stop()
    try:
        with pytest.raises(CommandError, match=r"2 messages.*the broker did not take them"):
            command()
    finally:
        breakable_broker.start()
    assert statuses() == [JobStatus.QUEUED] * 2
    lapse()
    assert command().startswith("2 lost messages")
    assert breakable_broker.messages() == 2


# In a process of its own


def manage(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`manage.py` of a project that has its Celery application in its package, as Celery asks."""
    program = (
        "import sys, tests.worked.celery; from django.core.management import"
        " execute_from_command_line; execute_from_command_line(['manage.py', *sys.argv[1:]])"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ
        | {"DATABASE_URL": database_url(), "DJANGO_SETTINGS_MODULE": "tests.served.settings"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_message_has_the_options_of_a_task_that_only_workers_load(broker: Broker) -> None:
    """Where its task is not known, a message would go to the default queue, without its limits."""
    JobFactory.create(task="tests.worked.tasks.book_until_killed")
    lapse()
    done = manage("idempotency_recover", "--skip-checks")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 lost messages")
    with (
        broker.app.connection_for_read() as connection,
        connection.SimpleQueue(broker.queue) as queue,
    ):
        message: Any = queue.get(block=False)
        message.ack()
    assert message.headers["timelimit"] == [1, None]


def test_the_exit_code_tells_of_an_error(broker: Broker) -> None:
    done = manage("idempotency_recover", "--skip-checks", "--batch-size", "0")
    assert done.returncode == 1
    assert "batch size" in done.stderr
    assert done.stdout == ""
