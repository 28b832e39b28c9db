"""A job on its way: its progress, its further attempts, and how it is called off."""

from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from celery import shared_task
from django.db import DatabaseError, connection, transaction

from idempotency.exceptions import LeaseLost
from idempotency.jobs import (
    JobFailed,
    cancel_job,
    current_attempt,
    job,
    start_job,
    step,
)
from idempotency.layers import jobs
from idempotency.models import Job
from tests.concurrent import Crew, elsewhere, until
from tests.jobs import (
    Stop,
    book,
    booked,
    deadlock,
    document,
    doing,
    lapse,
    new_key,
    raises,
    run,
    sweep,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.vendors("postgresql", "mysql")]


class TestProgress:
    def test_it_shows_before_the_commit_and_the_last_in_the_end(self, ask_job, messages):
        seen = []

        def work():
            book()
            job.progress(1, 4)
            until(lambda: shown() is not None)
            seen.append(shown())
            for done in (2, 3, 4):
                job.progress(done, 4)

        def shown():
            return document(elsewhere(ask_job, None))["progress"]

        ask_job(doing(work))
        messages.deliver()
        assert seen == [{"done": 1, "total": 4}]
        assert document(ask_job(None))["progress"] == {"done": 4, "total": 4}
        assert (Job.objects.get().done, Job.objects.get().total) == (4, 4)

    def test_a_failed_job_tells_how_far_it_came(self, carry_out):
        def work():
            job.progress(3, 4)
            raise ValueError

        assert carry_out(work)["progress"] == {"done": 3, "total": 4}

    def test_each_attempt_tells_its_own(self, ask_job, messages):
        seen = []

        def work():
            seen.append(elsewhere(Job.objects.get).done)
            if len(seen) == 1:
                job.progress(3, 4)
                raise Stop

        started = document(ask_job(doing(work)))
        with pytest.raises(Stop):
            messages.deliver()
        Job.objects.update(done=3, total=4)  # if the heartbeat has not come to it
        run(started["id"])
        assert seen == [None, None]
        assert document(ask_job(None))["progress"] is None

    def test_a_thousand_reports_are_a_few_writes(self, carry_out, monkeypatch):
        written = []
        progress = jobs.progress

        def write(*args, using):
            written.append(args)
            progress(*args, using=using)

        monkeypatch.setattr(jobs, "progress", write)

        def work():
            for done in range(1001):
                job.progress(done, 1000)

        assert carry_out(work)["progress"] == {"done": 1000, "total": 1000}
        assert len(written) <= 3

    def test_what_is_no_progress_is_refused(self, carry_out):
        def work():
            refused: list[Any] = [(-1, 2), (3, 2), (0, -1), (0.5, 1), (0, 2**63)]
            for done, total in refused:
                with pytest.raises(ValueError, match="Progress"):
                    job.progress(done, total)

        assert carry_out(work)["status"] == "succeeded"


class TestAnotherAttempt:
    def test_a_deadlock_has_one(self, ask_job, messages, happened):
        def work():
            book()
            if current_attempt() == 2:
                deadlock()
            return current_attempt()

        ask_job(doing(work))
        messages.deliver()
        waiting = document(ask_job(None))
        assert (waiting["status"], waiting["attempts"], waiting["error"]) == ("queued", 1, None)
        assert "job_handed_back" in happened
        assert (booked(), len(messages)) == ({}, 0)
        assert sweep().resent == 0  # it has a while to get out of the way
        lapse()
        assert sweep().resent == 1
        messages.deliver()
        done = document(ask_job(None))
        assert (done["status"], done["attempts"], booked()) == ("succeeded", 2, {"Ada": 1})
        assert done["result"] > 2

    @pytest.mark.parametrize("name", ["retries_once", "retries_for_a_reason", "retries_by_itself"])
    def test_so_has_a_task_that_asks_for_it_in_celerys_words(self, ask_job, messages, name):
        ask_job(lambda: start_job(globals()[name]))
        messages.deliver()
        assert document(ask_job(None))["status"] == "queued"
        lapse()
        sweep()
        messages.deliver()
        assert document(ask_job(None))["status"] == "succeeded"
        assert booked() == {"Ada": 1}

    def test_what_is_final_is_not_asked_for_again(self, ask_job, messages):
        ask_job(lambda: start_job(retries_everything))
        messages.deliver()
        assert document(ask_job(None))["error"]["message"] == "No."

    def test_a_worker_that_is_told_to_go_leaves_its_job_to_the_next(self, ask_job, messages):
        def work():
            book()
            if current_attempt() == 2:
                raise Stop

        started = document(ask_job(doing(work)))
        with pytest.raises(Stop):
            messages.deliver()
        waiting = document(ask_job(None))
        assert (waiting["status"], waiting["attempts"], booked()) == ("queued", 1, {})
        run(started["id"])  # its own message, redelivered
        assert document(ask_job(None))["status"] == "succeeded"
        assert booked() == {"Ada": 1}

    def test_steps_that_are_done_are_not_done_again(self, ask_job, messages):
        results = []

        def work():
            results.append([step(name, book, name) for name in ("one", "two")])
            if len(results) == 1:
                raise Stop
            results.append([step("three", book, "three")])

        started = document(ask_job(doing(work)))
        with pytest.raises(Stop):
            messages.deliver()
        assert booked() == {"one": 1, "two": 1}
        run(started["id"])
        assert booked() == {"one": 1, "two": 1, "three": 1}
        assert results[0] == results[1]
        assert document(ask_job(None))["status"] == "succeeded"

    def test_not_for_ever(self, ask_job, messages):
        def work():
            book()
            deadlock()

        started = document(ask_job(doing(work)))
        for _ in range(jobs.MAX_ATTEMPTS + 2):
            run(started["id"])
        done = document(ask_job(None))
        assert (done["status"], done["attempts"]) == ("failed", jobs.MAX_ATTEMPTS)
        assert booked() == {}

    def test_a_lost_connection_leaves_the_job_to_the_sweep(self, ask_job, messages):
        own = {"postgresql": "SELECT pg_terminate_backend(pg_backend_pid())"}
        suicide = own.get(connection.vendor, "KILL CONNECTION CONNECTION_ID()")

        def work():
            book()
            if Job.objects.get().attempts == 1:
                with connection.cursor() as cursor:
                    cursor.execute(suicide)
                    cursor.execute("SELECT 1")

        ask_job(doing(work), lease=30)
        with pytest.raises(DatabaseError):
            messages.deliver()
        assert document(ask_job(None))["status"] == "running"
        assert sweep().requeued == 0
        lapse()
        assert sweep().requeued == 1
        messages.deliver()
        assert document(ask_job(None))["status"] == "succeeded"
        assert booked() == {"Ada": 1}


@shared_task(bind=True)
def retries_once(self):
    book()
    if current_attempt() == 2:
        raise self.retry()


@shared_task(bind=True)
def retries_for_a_reason(self):
    book()
    if current_attempt() == 2:
        try:
            raise LookupError
        except LookupError as error:
            raise self.retry(exc=error, countdown=60) from None


@shared_task(autoretry_for=[LookupError], retry_backoff=True)
def retries_by_itself():
    book()
    if current_attempt() == 2:
        raise LookupError


@shared_task(autoretry_for=[Exception])
def retries_everything():
    raise JobFailed("No.")


class TestCancel:
    def test_while_it_is_queued(self, ask_job, messages, happened):
        started = document(ask_job(doing(book)))
        assert cancel_job(started["id"]) is True
        done = document(ask_job(None))
        assert (done["status"], done["error"]["code"]) == ("cancelled", "job_cancelled")
        assert (done["started_at"], done["finished_at"] is not None) == (None, True)
        messages.deliver()
        assert (booked(), document(ask_job(None))) == ({}, done)
        assert "job_ended.cancelled" in happened

    @pytest.mark.parametrize("told", ["progress", "current_attempt", "step"])
    def test_while_it_runs_the_task_is_told_when_it_asks(self, ask_job, messages, told):
        heard = []

        def work():
            step("done", book, "stays done") if told == "step" else book()
            elsewhere(cancel_job, job.id)
            asking = {
                "progress": lambda: job.progress(1, 2),
                "current_attempt": current_attempt,
                "step": lambda: step("undone", book, "undone"),
            }[told]
            until(lambda: raises(LeaseLost, asking))
            heard.append(told)
            asking()

        ask_job(doing(work), lease=1)
        messages.deliver()
        assert heard == [told]
        assert document(ask_job(None))["status"] == "cancelled"
        assert booked() == ({"stays done": 1} if told == "step" else {})

    def test_a_task_that_does_not_ask_writes_nothing_either(self, carry_out):
        def work():
            book()
            elsewhere(cancel_job, job.id)
            return "done"

        done = carry_out(work)
        assert (done["status"], done["result"], booked()) == ("cancelled", None, {})

    @pytest.mark.parametrize("end", [lambda: "done", lambda: 1 / 0])
    def test_what_has_ended_stays_as_it_is(self, ask_job, messages, end):
        started = document(ask_job(doing(end)))
        messages.deliver()
        before = ask_job(None).content
        assert cancel_job(started["id"]) is False
        assert ask_job(None).content == before

    def test_nothing_is_cancelled_twice_or_out_of_nowhere(self, ask_job, messages):
        started = document(ask_job(doing(book)))
        assert [cancel_job(started["id"]) for _ in range(2)] == [True, False]
        assert cancel_job(uuid4()) is False
        with pytest.raises(ValueError, match="badly formed"):
            cancel_job("no id")

    def test_with_the_callers_transaction(self, ask_job, messages):
        started = document(ask_job(doing(book)))
        with transaction.atomic():
            assert cancel_job(started["id"])
            transaction.set_rollback(True)
        messages.deliver()
        assert document(ask_job(None))["status"] == "succeeded"

    def test_at_the_moment_of_the_end_either_wins_whole(self, ask_job, messages):
        """Twenty races: cancelled without effects, or succeeded with them."""
        for number in range(20):
            name = f"race {number} {new_key()}"
            started = document(ask_job(doing(partial(book, name)), key=name))
            with Crew(2) as crew:
                running = crew.start(run, started["id"])
                cancelled = crew.start(cancel_job, started["id"]).result()
                running.result()
            done = document(ask_job(None, key=name))
            assert done["status"] == ("cancelled" if cancelled else "succeeded")
            assert (name in booked()) is not cancelled
