"""What a worker does with a job's message, on whichever vendor the run has chosen: it, once."""

import json
import time
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from celery import shared_task
from django.db import connection, transaction
from django.db.models import F

from idempotency.exceptions import LeaseLost
from idempotency.jobs import (
    JobFailed,
    cancel_job,
    current_attempt,
    job,
    start_job,
    step,
)
from idempotency.keys import child_key, current_key
from idempotency.layers import jobs
from idempotency.models import IdempotencyRecord, Job, JobStatus, State
from tests.concurrent import Crew, elsewhere, open_transaction, until
from tests.jobs import (
    book,
    booked,
    deadlock,
    document,
    doing,
    fail,
    lapse,
    new_key,
    raises,
    run,
    sweep,
)
from tests.worked import tasks

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.vendors("postgresql", "mysql")]


def steal(key, **theft):
    """The record is another's by now."""
    assert IdempotencyRecord.objects.filter(key=key).update(**theft) == 1


class TestOnce:
    def test_effects_commit_with_the_end_and_not_before(self, ask_job, messages):
        seen = []

        def work():
            book()
            seen.append(elsewhere(lambda: (booked(), Job.objects.get().status)))
            transaction.on_commit(lambda: seen.append(elsewhere(left_behind)))
            return ["done"]

        def left_behind():
            record = IdempotencyRecord.objects.select_related("job").get()
            return booked(), record.job.status, json.loads(record.job.result), record.state

        ask_job(doing(work))
        messages.deliver()
        assert seen == [
            ({}, JobStatus.RUNNING),
            ({"Ada": 1}, JobStatus.SUCCEEDED, ["done"], State.FINISHED),
        ]

    @pytest.mark.parametrize("ending", ["succeeded", "failed", "cancelled"])
    def test_a_message_that_comes_again_does_nothing(self, ask_job, messages, happened, ending):
        task = tasks.book_and_break if ending == "failed" else tasks.book
        arguments = {"name": "Ada"} | ({"secret": ""} if ending == "failed" else {})
        started = document(ask_job(lambda: start_job(task, **arguments)))
        if ending == "cancelled":
            cancel_job(started["id"])
        messages.deliver(times=3)
        before = ask_job(None).content, booked()
        assert happened.count("job_ignored") == (3 if ending == "cancelled" else 2)
        run(started["id"])
        assert (ask_job(None).content, booked()) == before
        assert json.loads(before[0])["status"] == ending
        assert booked() == ({"Ada": 1} if ending == "succeeded" else {})

    def test_one_that_comes_while_the_job_runs_does_nothing(self, carry_out, happened):
        def work():
            book()
            elsewhere(run, job.id)
            return current_attempt()

        done = carry_out(work)
        assert (done["attempts"], done["result"], booked()) == (1, 2, {"Ada": 1})
        assert happened.count("job_ignored") == 1

    def test_one_for_no_job_does_nothing(self, messages, happened):
        run(uuid4())
        assert happened == ["job_ignored"]

    def test_of_many_at_once_one_does_it(self, ask_job, messages):
        started = document(ask_job(lambda: start_job(tasks.book, name="Ada")))
        with Crew(8) as crew:
            for delivery in [crew.start(run, started["id"]) for _ in range(20)]:
                delivery.result()
        done = document(ask_job(None))
        assert (done["status"], done["attempts"], booked()) == ("succeeded", 1, {"Ada": 1})

    def test_what_a_dead_worker_had_is_taken_over_once_its_lease_is_over(self, ask_job, messages):
        ask_job(lambda: start_job(tasks.book, name="Ada"))
        Job.objects.update(status=JobStatus.RUNNING, attempts=1)
        message = messages.take()
        run(message.payload[0][0])
        assert booked() == {}
        lapse()
        run(message.payload[0][0])
        assert booked() == {"Ada": 1}
        assert document(ask_job(None))["attempts"] == 2

    def test_nobody_waits_for_who_has_the_record(self, ask_job, messages, happened):
        """It is being finished, or the sweep has it: either knows more than this message."""
        ask_job(lambda: start_job(tasks.book, name="Ada"))
        with open_transaction(lambda: list(IdempotencyRecord.objects.select_for_update())):
            elsewhere(messages.deliver)
        assert happened[-1] == "job_ignored"
        lapse()
        assert sweep().resent == 1
        messages.deliver()
        assert booked() == {"Ada": 1}


@pytest.mark.django_db
def test_jobs_can_be_run_within_a_testcase(ask):
    """Where nothing commits: no message goes out, and no other connection renews the lease."""
    started = document(ask(lambda: start_job(tasks.book, name="Ada"), execution="job"))
    run(started["id"])
    done = document(ask(None, execution="job"))
    assert (done["status"], booked()) == ("succeeded", {"Ada": 1})


class TestFence:
    """Whoever was taken over, settled or called off writes nothing any more."""

    @pytest.fixture(
        params=[
            {"attempt": F("attempt") + 1},
            {"state": State.FINISHED},
            {"state": State.UNKNOWN},
            {"state": State.RELEASED},
        ],
        ids=["attempt", "finished", "unknown", "released"],
    )
    def theft(self, request):
        """What of the record has changed meanwhile; each alone must be enough."""
        return request.param

    def test_a_zombie_changes_nothing_however_it_ends(self, ask_job, messages, happened, theft):
        def work(key, end):
            book()
            elsewhere(steal, key, **theft)
            left.append(elsewhere(everything))
            return end()

        def everything():
            records, rows = IdempotencyRecord.objects.values(), Job.objects.values()
            return list(records.order_by("id")), list(rows.order_by("record"))

        left: list[Any] = []
        for end in ENDINGS:
            key = new_key()
            ask_job(doing(partial(work, key, end)), key=key)
            messages.deliver()
            assert everything() == left.pop()
            assert booked() == {}
            assert happened[-1] == "lease_lost"

    def test_its_steps_do_not_commit_either(self, ask_job, messages, happened, theft):
        def work():
            step("one", book, "before")
            elsewhere(steal, key, **theft)
            step("two", book, "after")

        key = new_key()
        ask_job(doing(work), key=key)
        messages.deliver()
        assert booked() == {"before": 1}
        assert happened[-1] == "lease_lost"

    def test_its_progress_shows_no_more(self, ask_job, messages):
        def work():
            job.progress(1, 3)
            until(lambda: elsewhere(Job.objects.get).done == 1)
            elsewhere(run_again, job.id)
            elsewhere(jobs.progress, job.id, 1, 2, 3, using="default")

        def run_again(job_id):
            """Another worker has the job by now."""
            lapse()
            assert jobs.begin(job_id, using="default").attempts == 2

        ask_job(doing(work))
        messages.deliver()
        # Nor does what the attempt before had done.
        assert (Job.objects.get().done, Job.objects.get().status) == (None, JobStatus.RUNNING)

    def test_progress_that_comes_late_does_not_undo_the_last(self, ask_job, messages):
        """The heartbeat's write waits for the end's, and must look again after it."""
        ask_job(doing(lambda: None))
        begun = jobs.begin(Job.objects.get().pk, using="default")

        def end():
            Job.objects.update(done=3, total=3, status=JobStatus.SUCCEEDED)

        with Crew(1) as crew:
            with open_transaction(end):
                late = crew.start(jobs.progress, begun.id, begun.attempts, 1, 3, using="default")
                until(somebody_waits)
            late.result()
        assert Job.objects.get().done == 3

    def test_a_task_that_swallows_its_loss_writes_nothing(self, carry_out, ask_job):
        def work():
            book()
            elsewhere(cancel_job, job.id)
            until(lambda: raises(LeaseLost, current_attempt))
            assert raises(LeaseLost, partial(job.progress, 1, 2))
            return "as if nothing had happened"

        done = carry_out(work, lease=1)
        assert (done["status"], done["result"], booked()) == ("cancelled", None, {})


def somebody_waits():
    """Whether a transaction waits for another's row."""
    waiting = {
        "postgresql": "SELECT '', count(*) FROM pg_locks WHERE NOT granted",
        "mysql": "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'",
    }
    with connection.cursor() as cursor:
        cursor.execute(waiting[connection.vendor])
        return int(cursor.fetchone()[1]) > 0


#: Of a task that has lost its job.
ENDINGS = [lambda: "done", lambda: fail(ValueError), lambda: fail(JobFailed("no")), deadlock]


class TestMessage:
    def test_it_says_who_not_what(self, ask_job, messages):
        started = document(ask_job(lambda: start_job(tasks.book, name="s3cret")))
        message = messages.take()
        assert message.payload[0] == [started["id"], "default"]
        assert message.headers["task"] == "idempotency.run_job"
        assert message.headers["shadow"] == tasks.book.name
        assert message.headers["ignore_result"] is True
        assert "s3cret" not in repr(message.headers)

    def test_it_goes_where_the_tasks_own_would_with_its_limits_and_priority(
        self, ask_job, messages
    ):
        messages.app.conf.task_routes = {routed.name: {"queue": "elsewhere", "priority": 3}}
        ask_job(lambda: start_job(routed))
        message = messages.take("elsewhere")
        assert message.headers["timelimit"] == [20, 10]
        assert message.properties["priority"] == 3
        assert message.headers["expires"] is None  # the job does not: it would only be sent again
        assert len(messages) == 0

    def test_the_task_knows_its_key(self, ask_job, messages):
        seen = []
        ask_job(
            doing(lambda: seen.append((current_key(), child_key("billing")))),
            key=(key := new_key()),
        )
        messages.deliver()
        assert seen == [(key, f"{key}-billing")]
        with pytest.raises(LookupError):
            current_attempt()


@shared_task(time_limit=20, soft_time_limit=10, expires=5)
def routed():
    pass


def test_a_running_job_keeps_its_lease(ask_job, messages):
    """Beyond several of its lengths; nobody takes it for dead."""
    seen = []

    def work():
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            seen.append(elsewhere(sweep))
            time.sleep(0.1)
        return book()

    ask_job(doing(work), lease=1)
    messages.deliver()
    assert {(found.requeued, found.resent, found.failed) for found in seen} == {(0, 0, 0)}
    done = document(ask_job(None))
    assert (done["status"], done["attempts"], booked()) == ("succeeded", 1, {"Ada": 1})
