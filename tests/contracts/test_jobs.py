"""What a worker does with a job's message, on whichever vendor the run has chosen: the job once,
its effects with its end, and the client told how it ended."""

import json
import time
from functools import partial
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import pytest
from celery import shared_task
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError

from idempotency import events
from idempotency.exceptions import LeaseLost, OutcomeUnknown
from idempotency.jobs import (
    JobFailed,
    JobResult,
    cancel_job,
    current_attempt,
    job,
    start_job,
    step,
)
from idempotency.keys import child_key, current_key
from idempotency.layers import jobs
from idempotency.models import IdempotencyRecord, Job, JobStatus, State
from tests.app.models import Booking, Ticket
from tests.concurrent import Crew, elsewhere, open_transaction, until
from tests.jobs import booked, document, doing, lapse, run, sweep
from tests.worked import tasks

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.vendors("postgresql", "mysql")]


@pytest.fixture
def ask_job(ask, messages):
    """A request that starts a job, or asks for it."""
    return partial(ask, execution="job")


@pytest.fixture
def carry_out(ask_job, messages):
    """Starts a job that calls the function, carries it out, and gives the client's document."""

    def carry_out(function, **policy):
        ask_job(doing(function), **policy)
        messages.deliver()
        return document(ask_job(None, **policy))

    return carry_out


class Happened(list):
    """The events of one test."""

    def __call__(self, sender, event, **kwargs):
        self.append(f"{event.name}.{event.detail}" if event.detail else event.name)


@pytest.fixture
def happened():
    listening = Happened()
    events.recorded.connect(listening)
    yield listening
    events.recorded.disconnect(listening)


def book(name="Ada"):
    return Booking.objects.create(name=name).pk


def new_key():
    """For another job in the same test: replies of all tests stand in one cache."""
    return str(uuid4())


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
        "postgresql": "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'",
        "mysql": "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
    }
    with connection.cursor() as cursor:
        cursor.execute(waiting[connection.vendor])
        return cursor.fetchone() is not None


def fail(error):
    raise error


def raises(kind, function):
    try:
        function()
    except kind:
        return True
    return False


def deadlock():
    """The database says that this transaction was in another's way."""
    said = {
        "postgresql": "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '40P01'; END $$",
        "mysql": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'no'",
    }
    with connection.cursor() as cursor:
        cursor.execute(said[connection.vendor])


#: Of a task that has lost its job.
ENDINGS = [lambda: "done", lambda: fail(ValueError), lambda: fail(JobFailed("no")), deadlock]


FOR_CLIENTS = [
    (JobFailed("No such course."), "job_failed", "No such course."),
    (JobFailed("Full.", code="course_full"), "course_full", "Full."),
    (NotFound("No such course."), "not_found", "No such course."),
    (ValidationError({"seats": ["No."]}), "job_invalid", '{"seats": ["No."]}'),
    (serializers.ValidationError("No.", code="seats"), "job_invalid", '["No."]'),
]


class TestFailure:
    def test_what_is_meant_for_the_client_is_told(self, carry_out):
        for error, *told in FOR_CLIENTS:

            def work(error=error):
                book()
                raise error

            done = carry_out(work, key=new_key())
            assert (done["status"], done["result"]) == ("failed", None)
            assert done["error"] == dict(zip(("code", "message"), told, strict=True))
            assert done["finished_at"] is not None
        assert booked() == {}

    @pytest.mark.parametrize(
        "error", [ValueError("s3cret"), IntegrityError("s3cret"), LookupError("s3\x00cret\udcff")]
    )
    def test_anything_else_is_for_operators_only(self, carry_out, ask_job, error):
        def work():
            book()
            raise error

        done = carry_out(work)
        assert (done["status"], done["attempts"]) == ("failed", 1)
        assert done["error"]["code"] == "job_failed"
        assert b"cret" not in ask_job(None).content
        assert "raise error" in Job.objects.get().traceback
        assert "cret" in Job.objects.get().traceback
        assert booked() == {}

    def test_words_that_no_database_takes_are_told_as_well_as_can_be(self, carry_out):
        done = carry_out(lambda: fail(JobFailed("Zoë\x00 🎓 \udcff")))
        assert done["status"] == "failed"
        assert done["error"]["message"].startswith("Zoë")
        assert "🎓" in done["error"]["message"]

    def test_a_traceback_is_kept_from_its_end(self, carry_out):
        carry_out(lambda: fail(ValueError("x" * 100_000 + "the end")))
        kept = Job.objects.get().traceback
        assert kept.rstrip().endswith("the end")
        assert len(kept) <= 20_000

    def test_a_result_that_is_no_json(self, carry_out):
        results = [object(), {1: 2}, {1, 2}, float("nan"), b"bytes", JobResult(object())]
        for result in results:

            def work(result=result):
                book()
                return result

            done = carry_out(work, key=new_key())
            assert (done["status"], done["result"], booked()) == ("failed", None, {})
            assert "must be JSON" in Job.objects.get(pk=done["id"]).traceback

    def test_a_result_that_is_too_large(self, carry_out, settings):
        settings.IDEMPOTENCY_MAX_BODY = 1000

        def work():
            book()
            return "x" * 999

        done = carry_out(work)
        assert done["error"]["code"] == "job_result_too_large"
        assert booked() == {}

    def test_a_result_that_just_fits(self, carry_out, settings):
        settings.IDEMPOTENCY_MAX_BODY = 1000
        assert carry_out(lambda: "x" * 998)["result"] == "x" * 998

    def test_work_that_the_task_has_marked_as_undone(self, carry_out):
        def work():
            book()
            transaction.set_rollback(True)
            return "done"

        done = carry_out(work)
        assert (done["error"]["code"], booked()) == ("job_rolled_back", {})

    @pytest.mark.vendors("postgresql")
    def test_a_database_error_that_the_task_has_swallowed(self, carry_out):
        """It broke the transaction, whatever the task says."""

        def work():
            book()
            try:
                Booking.objects.create(name="x" * 101)
            except DatabaseError:
                return "done"

        done = carry_out(work)
        assert (done["error"]["code"], booked()) == ("job_rolled_back", {})

    @pytest.mark.vendors("postgresql")
    def test_a_commit_that_is_refused(self, carry_out):
        """A constraint that is only checked then."""

        def work():
            Ticket.objects.create(booking_id=book() + 1000)
            return "done"

        done = carry_out(work)
        assert (done["status"], done["result"], booked()) == ("failed", None, {})

    def test_a_task_that_is_no_longer_there(self, ask_job, messages):
        ask_job(doing(book))
        Job.objects.update(task="tests.of.another.version")
        messages.deliver()
        done = document(ask_job(None))
        assert (done["status"], done["error"]["code"]) == ("failed", "job_task_unknown")

    def test_arguments_that_the_task_takes_no_more(self, ask_job, messages):
        ask_job(doing(book))
        Job.objects.update(arguments='{"of": "another version"}')
        messages.deliver()
        assert document(ask_job(None))["status"] == "failed"

    def test_a_hook_that_fails_after_the_commit_fails_no_job(self, carry_out, caplog):
        def work():
            transaction.on_commit(lambda: 1 / 0)
            return book()

        done = carry_out(work)
        assert (done["status"], booked()) == ("succeeded", {"Ada": 1})
        assert "ZeroDivisionError" in caplog.text


def identity(value):
    return value


class TestReply:
    def test_results_are_json(self, carry_out):
        values = [None, 0, [], {"name": "Zoë 🎓", "parts": (1, 2.5)}, "\x00"]
        for value in values:
            done = carry_out(partial(identity, value), key=new_key())
            assert done["result"] == json.loads(json.dumps(value))

    def test_its_status_is_the_tasks_to_choose(self, ask_job, messages):
        for status in (200, 303, 409, HTTPStatus.CREATED):
            key = new_key()
            ask_job(doing(partial(book_with, status)), key=key)
            messages.deliver()
            answer = ask_job(None, key=key)
            assert (answer.status_code, document(answer)["status"]) == (status, "succeeded")
        assert booked() == {"Ada": 4}

    def test_not_every_status_is_a_final_reply_with_a_body(self):
        for status in (0, 100, 199, 202, 204, 205, 304, 500, 503, 600):
            with pytest.raises(ValueError, match=str(status)):
                JobResult(None, status=status)


def book_with(status):
    return JobResult(book(), status=status)


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
            for done, total in ((-1, 2), (3, 2), (0, -1), (0.5, 1), (0, 2**63)):
                with pytest.raises(ValueError, match="Progress"):
                    job.progress(done, total)

        assert carry_out(work)["status"] == "succeeded"


class Stop(BaseException):
    """Tells the worker to go, as SystemExit does."""


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


class TestHold:
    """What a job did outside may not be known; then it is an operator's."""

    @pytest.fixture
    def held(self, ask_job, messages):
        return partial(ask_job, on_abandoned="hold")

    def outcome(self, held):
        """ "unknown", or the status that a retry reads."""
        try:
            return document(held(None))["status"]
        except OutcomeUnknown:
            record = IdempotencyRecord.objects.get()
            assert (record.state, record.purge_at) == (State.UNKNOWN, None)
            assert Job.objects.get().error_code == "idempotency_outcome_unknown"
            return "unknown"

    @pytest.mark.parametrize(
        ("end", "outcome"),
        [
            (lambda: fail(ValueError), "unknown"),
            (lambda: fail(TimeoutError), "unknown"),
            (deadlock, "unknown"),
            (object, "unknown"),
            (lambda: "x" * 2000, "unknown"),
            (lambda: transaction.set_rollback(True), "unknown"),
            (lambda: fail(JobFailed("No.")), "failed"),
            (lambda: fail(NotFound), "failed"),
            (lambda: "charged", "succeeded"),
        ],
        ids=[
            "error",
            "time-out",
            "deadlock",
            "no JSON",
            "too large",
            "rolled back",
            "JobFailed",
            "APIException",
            "success",
        ],
    )
    def test_only_a_refusal_is_sure_that_nothing_happened(
        self, held, messages, settings, end, outcome
    ):
        settings.IDEMPOTENCY_MAX_BODY = 1000

        def work():
            book()
            return end()

        started = document(held(doing(work)))
        messages.deliver()
        assert self.outcome(held) == outcome
        lapse()
        swept = sweep()
        assert (swept.resent, swept.requeued, swept.failed, swept.held) == (0, 0, 0, 0)
        run(started["id"])
        assert self.outcome(held) == outcome
        assert booked() == ({"Ada": 1} if outcome == "succeeded" else {})

    def test_a_worker_that_is_told_to_go_leaves_it_unknown(self, held, messages):
        held(doing(lambda: fail(Stop)))
        with pytest.raises(Stop):
            messages.deliver()
        assert self.outcome(held) == "unknown"

    def test_after_a_dead_worker_nobody_runs_it_again(self, held, messages):
        started = document(held(doing(book)))
        Job.objects.update(status=JobStatus.RUNNING, attempts=1)
        lapse()
        messages.deliver()
        run(started["id"])
        assert (booked(), self.outcome(held)) == ({}, "running")
        assert sweep().held == 1
        assert self.outcome(held) == "unknown"
        run(started["id"])
        assert booked() == {}

    def test_until_a_worker_has_begun_it_is_as_any_other(self, held, messages):
        held(doing(book))
        messages.take()
        lapse()
        assert sweep().resent == 1
        messages.deliver()
        assert (booked(), self.outcome(held)) == ({"Ada": 1}, "succeeded")


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
