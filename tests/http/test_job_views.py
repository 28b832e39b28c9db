"""Jobs as a client sees them: 202 and where to look, the status, and in the end the reply."""

from functools import partial
from types import ModuleType

import pytest
from django.db import connections
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt
from rest_framework import viewsets
from rest_framework.exceptions import APIException
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.decorators import idempotent_view
from idempotency.jobs import JobFailed, JobResult, start_job
from idempotency.models import IdempotencyRecord, Job
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.factories import UserFactory
from tests.http.asking import Caller, assert_refused, replayed
from tests.jobs import booked, doing, sql
from tests.worked.tasks import book

JOB = Policy(execution="job")


class PaymentRequired(APIException):
    status_code = 402
    default_detail = "Pay first."


class Imports(IdempotencyMixin, APIView):
    idempotency_policy = JOB

    def post(self, request):
        return start_job(book, name=request.data["name"])


class ImportViewSet(IdempotencyMixin, viewsets.ViewSet):
    idempotency_policy = JOB

    def create(self, request):
        return start_job(book, name=request.data["name"])


class Refusing(Imports):
    """Starts a job, and then thinks better of it."""

    idempotency_policy = Policy(execution="job", remember_errors={402})

    def post(self, request):
        super().post(request)
        raise PaymentRequired


class Strict(Imports):
    idempotency_policy = Policy(execution="job", required=True)


class Lazy(Imports):
    """Nothing to do, or something that it says in its own words."""

    def post(self, request):
        if not request.data["name"]:
            return Response({"imported": 0})
        started = super().post(request)
        told = {"X-Status": started["Location"]}
        return Response({"started": request.data["name"]}, status=201, headers=told)


class Acting(Imports):
    """Starts a job that does what a test says."""

    @staticmethod
    def act():
        raise NotImplementedError

    def post(self, request):
        return self.act()


@csrf_exempt
@idempotent_view(operation="plain", policy=JOB)
def plain(request):
    return start_job(book, name="Ada")


views = [
    path("imports/", Imports.as_view()),
    path("viewset/", ImportViewSet.as_view({"post": "create"})),
    path("plain/", plain),
    path("refusing/", Refusing.as_view()),
    path("strict/", Strict.as_view()),
    path("lazy/", Lazy.as_view()),
    path("acting/", Acting.as_view()),
]
urlpatterns = [*views, path("idempotency/", include("idempotency.urls"))]

pytestmark = [
    pytest.mark.urls(__name__),
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendors("postgresql", "mysql"),
    pytest.mark.usefixtures("messages", "redis_db"),
]
VIEWS = ["/imports/", "/viewset/", "/plain/"]
ADA = {"name": "Ada"}


def somebody():
    """A caller who is known to all views; strangers may not look at jobs."""
    caller = Caller()
    caller.force_login(UserFactory.create())
    return caller


@pytest.fixture
def me():
    return somebody()


@pytest.mark.parametrize("url", VIEWS)
def test_a_client_follows_its_job_to_the_end(me, messages, url):
    started = me.ask(url, ADA)
    assert (started.status_code, started["Retry-After"]) == (202, "1")
    assert started["Content-Type"] == "application/json"
    assert started["Location"] == f"/idempotency/jobs/{started.json()['id']}/"
    assert not replayed(started)

    status = me.get(started["Location"])
    again = me.ask(url, ADA)
    assert status.json() == again.json() == started.json()
    assert (again.status_code, again["Location"]) == (202, started["Location"])
    assert again["Retry-After"] == "1"
    assert not replayed(again)

    messages.deliver()
    final = [me.ask(url, ADA) for _ in range(2)]
    for answer in final:
        assert (answer.status_code, answer.content) == (200, final[0].content)
        assert replayed(answer)
        assert "Retry-After" not in answer
    assert final[0].json() == me.get(started["Location"]).json()
    assert final[0].json()["result"]["id"] == Booking.objects.get().pk
    assert (len(messages), booked()) == (0, {"Ada": 1})


@pytest.mark.parametrize("url", VIEWS)
def test_the_status_costs_one_statement_and_the_reply_none(messages, url):
    """For callers that need none to be known."""
    api = Caller()
    api.ask(url, ADA)
    assert [statement.split()[0] for statement in sql(partial(api.ask, url, ADA))] == ["SELECT"]
    messages.deliver()
    api.ask(url, ADA)
    assert sql(partial(api.ask, url, ADA)) == []


def test_where_no_look_ups_are_routed_there_is_no_location(api, settings):
    settings.ROOT_URLCONF = ModuleType("without_look_ups")
    settings.ROOT_URLCONF.urlpatterns = views
    started = api.ask("/imports/", ADA)
    assert started.status_code == 202
    assert "Location" not in started


@pytest.mark.parametrize("url", VIEWS)
def test_without_a_key_each_request_starts_a_job(api, messages, url):
    answers = [api.ask(url, ADA, key=None) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json()["id"] for answer in answers}) == len(messages) == 2
    for _ in answers:
        messages.deliver()
    assert booked() == {"Ada": 2}
    assert len(set(IdempotencyRecord.objects.values_list("key", flat=True))) == 2


def test_a_key_that_is_required_is_required(api):
    assert_refused(api.ask("/strict/", ADA, key=None), 400, "idempotency_key_required")
    assert not Job.objects.exists()


def test_a_job_is_the_callers_own(messages):
    ada, bob = somebody(), somebody()
    hers, his = ada.ask("/imports/", ADA), bob.ask("/imports/", ADA)
    assert hers.json()["id"] != his.json()["id"]
    assert bob.get(hers["Location"]).status_code == 404
    assert len(messages) == 2


def test_another_payload_is_refused_by_name_at_any_time(me, messages):
    for deed in (lambda: None, messages.deliver):
        me.ask("/imports/", ADA)
        deed()
        refused = me.ask("/imports/", {"name": "Bob"})
        assert_refused(refused, 409, "idempotency_key_reused")
        assert refused.json()["mismatched_fields"] == ["name"]


def test_a_client_that_takes_only_html_gets_the_document_all_the_same(me):
    """One document for everybody: it is stored, and not rendered again."""
    started = me.ask("/imports/", ADA, headers={"Accept": "application/json, text/html"})
    assert started["Content-Type"] == "application/json"
    assert started.json()["status"] == "queued"


def test_the_task_chooses_the_status(me, messages, monkeypatch):
    monkeypatch.setattr(Acting, "act", acting(lambda: JobResult({"id": 7}, status=201)))
    me.ask("/acting/")
    messages.deliver()
    final = me.ask("/acting/")
    assert (final.status_code, final.json()["result"]) == (201, {"id": 7})


def test_a_failure_is_told_and_its_traceback_is_not(me, messages, monkeypatch):
    errors = [(JobFailed("Full.", code="full"), "full", "Full."), (ValueError("s3cret"), *NEUTRAL)]
    for number, (error, code, message) in enumerate(errors):
        monkeypatch.setattr(Acting, "act", acting(partial(raise_, error)))
        started = me.ask("/acting/", key=f"failing-{number}")
        messages.deliver()
        final = me.ask("/acting/", key=f"failing-{number}")
        assert (final.status_code, final.json()["status"]) == (200, "failed")
        assert final.json()["error"] == {"code": code, "message": message}
        for answer in (final, me.get(started["Location"])):
            assert b"s3cret" not in answer.content
            assert b"Traceback" not in answer.content
    assert "s3cret" in Job.objects.get(error_code="job_failed").traceback


NEUTRAL = ("job_failed", "The job failed because of an error in this service.")


def acting(function):
    return staticmethod(doing(function))


def raise_(error):
    raise error


def test_under_hold_an_unknown_outcome_is_a_409(me, messages, monkeypatch):
    monkeypatch.setattr(Acting, "act", acting(partial(raise_, TimeoutError())))
    monkeypatch.setattr(Acting, "idempotency_policy", Policy(execution="job", on_abandoned="hold"))
    me.ask("/acting/")
    messages.deliver()
    assert_refused(me.ask("/acting/"), 409, "idempotency_outcome_unknown")


def test_a_handler_may_answer_in_its_own_words(me, messages):
    first = me.ask("/lazy/", ADA)
    assert (first.status_code, first.json()) == (201, {"started": "Ada"})
    again = me.ask("/lazy/", ADA)
    assert (again.status_code, again["Location"]) == (202, first["X-Status"])
    messages.deliver()
    assert me.ask("/lazy/", ADA).json()["status"] == "succeeded"


def test_a_handler_that_starts_nothing_is_answered_as_ever(me, messages):
    nothing = {"name": ""}
    first, again = me.ask("/lazy/", nothing), me.ask("/lazy/", nothing)
    assert (first.status_code, again.content) == (200, first.content)
    assert replayed(again)
    assert (Job.objects.count(), len(messages)) == (0, 0)


def test_a_remembered_error_takes_the_job_back(me, messages):
    first, again = me.ask("/refusing/", ADA), me.ask("/refusing/", ADA)
    assert (first.status_code, again.status_code, again.content) == (402, 402, first.content)
    assert replayed(again)
    assert (Job.objects.count(), len(messages)) == (0, 0)


def test_an_error_that_nobody_remembers_takes_the_job_and_the_key_back(me, messages, monkeypatch):
    monkeypatch.setattr(Refusing, "idempotency_policy", JOB)
    assert [me.ask("/refusing/", ADA).status_code for _ in range(2)] == [402, 402]
    assert (Job.objects.count(), IdempotencyRecord.objects.count(), len(messages)) == (0, 0, 0)


@pytest.mark.parametrize("url", VIEWS)
def test_atomic_requests_change_nothing(api, messages, monkeypatch, url):
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    started = api.ask(url, ADA)
    assert started.status_code == 202
    assert api.ask(url, ADA).json() == started.json()
    messages.deliver()
    assert api.ask(url, ADA).json()["status"] == "succeeded"
    assert booked() == {"Ada": 1}


def test_safe_methods_start_nothing(me, monkeypatch):
    monkeypatch.setattr(Imports, "get", Imports.post, raising=False)
    assert me.get("/imports/").status_code == 500  # no execution runs there
    assert not Job.objects.exists()
