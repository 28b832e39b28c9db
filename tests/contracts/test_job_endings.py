"""How a job ends, and what its client is told: its result, its failure, or that nobody knows."""

import json
from functools import partial
from http import HTTPStatus

import pytest
from django.db import DatabaseError, IntegrityError, transaction
from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError

from idempotency.exceptions import OutcomeUnknown
from idempotency.heartbeat import Heartbeat
from idempotency.jobs import (
    JobFailed,
    JobResult,
)
from idempotency.models import IdempotencyRecord, Job, JobStatus, State
from idempotency.work import Work
from tests.app.models import Booking, Ticket
from tests.jobs import (
    Stop,
    book,
    booked,
    deadlock,
    document,
    doing,
    fail,
    lapse,
    new_key,
    run,
    sweep,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.vendors("postgresql", "mysql")]


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

    def test_a_message_has_its_length(self, carry_out):
        done = carry_out(lambda: fail(JobFailed("the beginning" + "x" * 100_000)))
        assert done["error"]["message"].startswith("the beginning")
        assert len(done["error"]["message"]) == 2000

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

    @pytest.mark.parametrize("failing", [Heartbeat, Work], ids=["heartbeat", "transaction"])
    def test_what_fails_before_the_task_has_left_nothing_unknown(
        self, held, messages, monkeypatch, failing
    ):
        """A host without threads, for one: the next attempt does it."""
        started = document(held(doing(book)))
        with monkeypatch.context() as broken:
            broken.setattr(failing, "__enter__", lambda self: fail(RuntimeError))
            messages.deliver()
        assert self.outcome(held) == "queued"
        lapse()
        assert sweep().resent == 1
        run(started["id"])
        assert (self.outcome(held), booked()) == ("succeeded", {"Ada": 1})

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
