"""Starting a job and asking again: one job a key, its status while it runs, its reply for good."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.http import HttpResponse
from django.utils import timezone

from idempotency import events, exceptions
from idempotency.jobs import cancel_job, current_attempt, job, start_job
from idempotency.layers import jobs
from idempotency.models import IdempotencyRecord, Job, JobStatus, State
from tests.app.models import Booking
from tests.concurrent import Crew, elsewhere
from tests.jobs import booked, document, doing, sql
from tests.worked import tasks

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.vendors("postgresql", "mysql")]

NAMES = {"name": "Ada"}


@pytest.fixture
def ask_job(ask, messages):
    """A request that starts `book`, or whatever its handler does, as a job."""

    def ask_job(handler=None, **options):
        return ask(handler or (lambda: start_job(tasks.book, **NAMES)), execution="job", **options)

    return ask_job


def nothing_written():
    return not (IdempotencyRecord.objects.exists() or Job.objects.exists() or booked())


class TestStart:
    def test_the_answer_is_202_with_the_document(self, ask_job):
        answer = ask_job()
        started = document(answer)
        assert (answer.status_code, answer["Retry-After"]) == (202, "1")
        assert answer["Content-Type"] == "application/json"
        assert started == {
            "id": str(UUID(started["id"])),
            "status": "queued",
            "progress": None,
            "result": None,
            "error": None,
            "attempts": 0,
            "created_at": started["created_at"],
            "started_at": None,
            "finished_at": None,
        }
        created = datetime.fromisoformat(started["created_at"])
        assert abs(created - datetime.now(UTC)) < timedelta(seconds=5)
        assert "Idempotent-Replayed" not in answer

    def test_claim_job_and_arguments_commit_together_and_the_message_after_them(
        self, ask_job, messages
    ):
        seen = []

        def handler():
            Booking.objects.create(name="the handler's own")
            answer = start_job(tasks.book, name="Zoë 🎓")
            seen.append((elsewhere(nothing_written), len(messages)))
            transaction.on_commit(lambda: seen.append(elsewhere(Job.objects.count)))
            return answer

        answer = ask_job(handler)
        assert seen == [(True, 0), 1]
        assert booked() == {"the handler's own": 1}
        stored = Job.objects.select_related("record").get()
        assert (str(stored.pk), stored.status) == (document(answer)["id"], JobStatus.QUEUED)
        assert (stored.task, json.loads(stored.arguments)) == (tasks.book.name, {"name": "Zoë 🎓"})
        assert (stored.record.state, stored.record.purge_at) == (State.JOB, None)
        assert len(messages) == 1
        messages.deliver()
        assert booked() == {"the handler's own": 1, "Zoë 🎓": 1}

    @pytest.mark.vendors("postgresql")  # the claim of the others takes two more
    def test_it_costs_three_statements_more_than_a_bare_insert(self, ask_job):
        ask_job(key="warm")
        assert len(sql(ask_job)) <= len(sql(lambda: Booking.objects.create(name="Ada"))) + 3

    @pytest.mark.parametrize(
        ("task", "arguments"),
        [
            (tasks.book, {"name": {1, 2}}),
            (tasks.book, {"name": float("nan")}),
            (tasks.book, {"name": [{"deep": (float("inf"),)}]}),
            (tasks.book, {"name": {1: "one"}}),
            (tasks.book, {"name": [{None: "none"}]}),
            (tasks.book, {"name": datetime(2026, 1, 1, tzinfo=UTC)}),
            (tasks.book, {"name": "\udcff"}),
            (tasks.book, {}),
            (tasks.book, {"name": "Ada", "seats": 2}),
            (tasks.book, {"title": "Ada"}),
            (print, {}),
            ("tests.worked.tasks.book", {"name": "Ada"}),
        ],
    )
    def test_what_no_worker_could_be_given_is_refused_before_anything_is_written(
        self, ask_job, messages, task, arguments
    ):
        def refused():
            with pytest.raises(TypeError):
                start_job(task, **arguments)

        def handler():
            assert sql(refused) == []
            start_job(task, **arguments)

        with pytest.raises(TypeError):
            ask_job(handler)
        assert nothing_written()
        assert len(messages) == 0
        assert ask_job().status_code == 202

    def test_a_cycle_is_refused_too(self, ask_job):
        endless: list[object] = []
        endless.append(endless)
        with pytest.raises(TypeError, match="JSON"):
            ask_job(lambda: start_job(tasks.book, name=endless))
        assert nothing_written()

    def test_arguments_that_are_too_large_are_refused(self, ask_job, settings):
        settings.IDEMPOTENCY_MAX_BODY = 1000
        fits = "x" * (1000 - len('{"name":""}'))
        with pytest.raises(ValueError, match="IDEMPOTENCY_MAX_BODY"):
            ask_job(lambda: start_job(tasks.book, name=fits + "x"))
        assert nothing_written()
        assert ask_job(lambda: start_job(tasks.book, name=fits)).status_code == 202

    def test_outside_of_a_protected_action_there_is_nothing_to_start_it_for(self, messages):
        with pytest.raises(LookupError):
            start_job(tasks.book, **NAMES)
        assert nothing_written()

    @pytest.mark.parametrize("execution", ["atomic", "leased"])
    def test_other_executions_refuse_it(self, ask, messages, execution):
        with pytest.raises(ImproperlyConfigured, match="job"):
            ask(lambda: start_job(tasks.book, **NAMES), execution=execution)
        assert (booked(), Job.objects.count(), len(messages)) == ({}, 0, 0)

    def test_a_second_job_in_one_request_is_refused(self, ask_job, messages):
        def twice():
            start_job(tasks.book, name="one")
            return start_job(tasks.book, name="two")

        with pytest.raises(ImproperlyConfigured, match="twice"):
            ask_job(twice)
        assert nothing_written()
        assert len(messages) == 0

    def test_at_once_in_many_threads_it_starts_once(self, ask_job, messages):
        with Crew(4) as crew:
            asked = [crew.start(ask_job) for _ in range(20)]
            answers = [future.result() for future in asked]
        assert {answer.status_code for answer in answers} == {202}
        assert len({document(answer)["id"] for answer in answers}) == 1
        assert (Job.objects.count(), len(messages)) == (1, 1)

    def test_no_transaction_of_others_may_stand_around_it(self, ask_job):
        with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
            ask_job()


class TestHandlersThatEndOtherwise:
    def test_one_that_starts_no_job_is_answered_and_remembered_as_ever(self, ask_job):
        def refuse():
            booking = Booking.objects.create(name="nothing to import")
            return HttpResponse(f"{booking.pk}", status=409)

        first, again = ask_job(refuse), ask_job(refuse)
        assert (first.status_code, again.content) == (409, first.content)
        assert again["Idempotent-Replayed"] == "true"
        assert booked() == {"nothing to import": 1}

    def test_one_that_raises_leaves_no_job_and_frees_the_key(self, ask_job, messages):
        def fail():
            start_job(tasks.book, **NAMES)
            raise ValueError

        with pytest.raises(ValueError):  # noqa: PT011 - the handler's own
            ask_job(fail)
        assert nothing_written()
        assert len(messages) == 0
        assert ask_job().status_code == 202

    @pytest.mark.parametrize("mark", [False, True], ids=["500", "set_rollback"])
    def test_one_that_is_undone_leaves_no_job(self, ask_job, messages, mark):
        def undone():
            answer = start_job(tasks.book, **NAMES)
            transaction.set_rollback(mark)
            return answer if mark else HttpResponse(status=500)

        ask_job(undone)
        assert nothing_written()
        assert len(messages) == 0
        assert ask_job().status_code == 202

    def test_one_that_returns_a_refusal_has_started_its_job_all_the_same(self, ask_job, messages):
        """What is returned below 500 commits, whatever it says; only what is raised is undone."""

        def refuse():
            start_job(tasks.book, **NAMES)
            return HttpResponse("no", status=409)

        assert ask_job(refuse).content == b"no"
        assert (ask_job(refuse).status_code, len(messages)) == (202, 1)
        messages.deliver()
        assert document(ask_job(refuse))["status"] == "succeeded"

    def test_a_remembered_error_takes_the_job_back(self, ask_job, messages):
        def fail():
            start_job(tasks.book, **NAMES)
            raise LookupError

        remembering = {
            "remember_errors": {402},
            "on_error": lambda error: HttpResponse(f"{error!r}", status=402),
        }
        first, again = ask_job(fail, **remembering), ask_job(fail, **remembering)
        assert (first.status_code, again.content) == (402, first.content)
        assert again["Idempotent-Replayed"] == "true"
        assert (Job.objects.count(), len(messages), booked()) == (0, 0, {})

    def test_where_errors_are_remembered_a_job_is_started_all_the_same(self, ask_job, messages):
        first = ask_job(remember_errors={402})
        assert ask_job(remember_errors={402}).content == first.content
        messages.deliver()
        assert ask_job(remember_errors={402}).status_code == 200

    def test_a_job_that_the_handler_has_itself_undone_was_not_started(self, ask_job, messages):
        """Its savepoint took job and message along; the key must not wait for them for ever."""

        def change_of_mind():
            try:
                with transaction.atomic():
                    start_job(tasks.book, **NAMES)
                    raise LookupError
            except LookupError:
                return HttpResponse("nothing to do", status=200)

        first, again = ask_job(change_of_mind), ask_job(change_of_mind)
        assert (first.content, again.content) == (b"nothing to do", b"nothing to do")
        assert (Job.objects.count(), len(messages)) == (0, 0)
        assert IdempotencyRecord.objects.get().state == State.FINISHED

    def test_after_such_a_one_another_may_be_started(self, ask_job, messages):
        def second_thought():
            with suppress(LookupError), transaction.atomic():
                start_job(tasks.book, name="undone")
                raise LookupError
            return start_job(tasks.book, name="started")

        assert ask_job(second_thought).status_code == 202
        messages.deliver()
        assert booked() == {"started": 1}

    def test_one_that_fails_after_the_start_has_queued_nothing(self, ask_job, messages):
        def fail():
            start_job(tasks.book, **NAMES)
            return HttpResponse(status=500)

        before = events.counts().get(events.JOB_QUEUED, 0)
        assert ask_job(fail).status_code == 500
        assert events.counts().get(events.JOB_QUEUED, 0) == before
        assert nothing_written()
        assert len(messages) == 0


@pytest.mark.usefixtures("rooms")
class TestRetries:
    def test_they_get_the_status_and_then_the_reply(self, ask_job, messages, rooms):
        first = ask_job()
        again = ask_job()
        assert (again.status_code, again.content) == (202, first.content)
        assert again["Retry-After"] == "1"
        assert "Idempotent-Replayed" not in again
        assert len(messages) == 1

        messages.deliver()
        final = [ask_job(), ask_job()]
        (booking,) = Booking.objects.all()
        for answer in final:
            assert (answer.status_code, answer.content) == (200, final[0].content)
            assert answer["Idempotent-Replayed"] == "true"
            assert answer["Content-Type"] == "application/json"
            assert "Retry-After" not in answer
        done = document(final[0])
        assert (done["id"], done["status"]) == (document(first)["id"], "succeeded")
        assert (done["result"], done["error"]) == ({"id": booking.pk, "name": "Ada"}, None)
        assert done["attempts"] == 1
        assert done["created_at"] <= done["started_at"] <= done["finished_at"]

    def test_the_status_costs_one_statement_and_the_reply_none(self, ask_job, messages, rooms):
        ask_job()
        (asked,) = sql(ask_job)
        assert asked.startswith("SELECT")
        messages.deliver()
        ask_job()
        assert bool(sql(ask_job)) is (rooms not in ("redis", "local"))

    def test_of_a_running_job_they_get_the_progress(self, ask_job, messages):
        seen = []

        ask_job(doing(lambda: seen.append(document(elsewhere(ask_job)))))
        messages.deliver()
        (running,) = seen
        assert (running["status"], running["attempts"]) == ("running", 1)
        assert running["started_at"] is not None
        assert running["finished_at"] is None


class TestReply:
    def test_the_task_chooses_its_status(self, ask_job, messages):
        ask_job(lambda: start_job(tasks.book_with_status, name="Ada", status=201))
        messages.deliver()
        assert [ask_job().status_code for _ in range(2)] == [201, 201]

    def test_a_failure_is_a_reply_like_any_other(self, ask_job, messages):
        broken = {"name": "Ada", "secret": "s3cret"}
        ask_job(lambda: start_job(tasks.book_and_break, **broken))
        messages.deliver()
        answer = ask_job()
        assert (answer.status_code, answer["Idempotent-Replayed"]) == (200, "true")
        assert document(answer)["status"] == "failed"
        assert b"s3cret" not in answer.content
        assert booked() == {}

    def test_so_is_a_cancelled_job(self, ask_job, messages):
        cancel_job(document(ask_job())["id"])
        answer = ask_job()
        assert (answer.status_code, document(answer)["status"]) == (200, "cancelled")
        messages.deliver()
        assert booked() == {}

    def test_the_ledger_answering_first_is_no_alarm(self, ask_job, messages):
        """No room could have known: the worker publishes nothing."""
        ask_job()
        messages.deliver()
        before = events.counts().get("constraint_caught", 0)
        ask_job()
        assert events.counts().get("constraint_caught", 0) == before

    def test_it_expires_as_any_reply_does_and_then_the_key_starts_anew(self, ask_job, messages):
        old = document(ask_job(ttl=1.5))["id"]
        messages.deliver()
        now = timezone.now()
        IdempotencyRecord.objects.update(expires_at=now - timedelta(seconds=1))
        with pytest.raises(exceptions.KeyExpired):
            ask_job()
        IdempotencyRecord.objects.update(purge_at=now - timedelta(seconds=1))
        new = document(ask_job())
        assert (new["status"], new["id"] != old) == ("queued", True)
        assert str(Job.objects.get().pk) == new["id"]
        messages.deliver()
        assert booked() == {"Ada": 2}


class TestOtherRequests:
    @pytest.mark.parametrize("moment", ["queued", "running", "finished"])
    def test_another_payload_under_the_key_is_refused(self, ask_job, messages, moment):
        ask_job(body={"name": "Ada", "seats": 1})
        if moment == "running":
            Job.objects.update(status=JobStatus.RUNNING)
        if moment == "finished":
            messages.deliver()
        with pytest.raises(exceptions.KeyReused) as refused:
            ask_job(body={"name": "Bob", "seats": 1})
        assert refused.value.mismatched_fields == ("name",)
        with pytest.raises(exceptions.KeyReused):
            ask_job(body={"name": "Ada", "seats": 1}, path="/others/")
        assert Job.objects.count() == 1

    def test_lenient_forgives_the_body(self, ask_job):
        first = ask_job(mismatch="lenient")
        assert ask_job(body={"name": "Bob"}, mismatch="lenient").content == first.content
        with pytest.raises(exceptions.KeyReused):
            ask_job(path="/others/", mismatch="lenient")

    def test_other_keys_and_callers_start_their_own(self, ask_job, messages):
        answers = [ask_job(), ask_job(key="other"), ask_job(caller="user:2")]
        assert len({document(answer)["id"] for answer in answers}) == len(messages) == 3

    @pytest.mark.parametrize("execution", ["atomic", "leased"])
    def test_a_policy_that_has_changed_since_finds_the_job(self, ask, ask_job, messages, execution):
        started = document(ask_job())["id"]
        answer = ask(HttpResponse, execution=execution)
        assert (answer.status_code, document(answer)["id"]) == (202, started)
        messages.deliver()
        assert document(ask(HttpResponse, execution=execution))["status"] == "succeeded"

    def test_one_that_ends_while_it_is_asked_for_is_replied(
        self, ask, ask_job, messages, monkeypatch
    ):
        """Between the ledger's verdict and the look at the job."""
        ask_job()
        look = jobs.pending

        def look_late(identity):
            messages.deliver()
            return look(identity)

        monkeypatch.setattr(jobs, "pending", look_late)
        answer = ask(HttpResponse, execution="atomic")
        assert (answer.status_code, document(answer)["status"]) == (200, "succeeded")

    @pytest.mark.parametrize("execution", ["job", "atomic"])
    def test_one_whose_row_was_deleted_is_in_progress_until_a_sweep(self, ask, ask_job, execution):
        ask_job()
        Job.objects.all().delete()
        with pytest.raises(exceptions.InProgress):
            ask(HttpResponse, execution=execution, wait_timeout=0)
        with pytest.raises(exceptions.KeyReused):
            ask(HttpResponse, execution=execution, body={"name": "Eve"})

    def test_observe_starts_a_job_for_each_and_counts(self, ask_job, messages):
        counted = []

        def listen(sender, event, **kwargs):
            if event.name == events.OBSERVED:
                counted.append(event.detail)

        events.recorded.connect(listen)
        try:
            answers = [ask_job(mode="observe"), ask_job(mode="observe")]
            answers.append(ask_job(mode="observe", body={"name": "Bob"}))
            messages.deliver()
            answers.append(ask_job(mode="observe"))
        finally:
            events.recorded.disconnect(listen)
        assert {answer.status_code for answer in answers} == {202}
        assert len({document(answer)["id"] for answer in answers}) == Job.objects.count() == 4
        assert counted == ["executed", "attached", "idempotency_key_reused", "replayed"]


def test_what_belongs_into_a_job_is_refused_elsewhere(ask, messages):
    with pytest.raises(LookupError):
        job.progress(1, 2)
    with pytest.raises(LookupError):
        current_attempt()
    with pytest.raises(LookupError, match="no job"):
        ask(lambda: job.progress(1, 2), execution="job")
    with pytest.raises(LookupError, match="no job"):
        ask(lambda: job.id, execution="job")
