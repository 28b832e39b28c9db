"""Leased views: what a client sees of leases and steps, with a key and without."""

from uuid import UUID

import pytest
from django.db import connection, connections
from django.db.models import F
from django.http import JsonResponse
from django.test.utils import CaptureQueriesContext
from django.urls import include, path
from rest_framework import exceptions, routers, viewsets
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.decorators import idempotent_view
from idempotency.jobs import current_attempt, step
from idempotency.keys import current_key
from idempotency.models import IdempotencyRecord, State
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.concurrent import elsewhere
from tests.http.asking import (
    BookingSerializer,
    assert_refused,
    assert_same_reply,
    replayed,
)
from tests.leased import PaymentRequired, expire, record

LEASED = Policy(execution="leased")


def booked():
    """The effect of each view here, and how it replies."""
    booking = Booking.objects.create(name=current_key())
    return {"id": booking.pk, "attempt": current_attempt()}


class Leased(IdempotencyMixin, APIView):
    """Books, then does what the test says."""

    authentication_classes = []
    idempotency_policy = LEASED

    def ending(self) -> None:
        pass

    def post(self, request):
        document = booked()
        Leased.ending(self)
        return Response(document, status=201)


class LeasedViewSet(IdempotencyMixin, viewsets.ModelViewSet):
    authentication_classes = []
    queryset = Booking.objects.all()
    serializer_class = BookingSerializer
    idempotency_policy = LEASED


class Stepped(Leased):
    """The same in two steps."""

    def post(self, request):
        done = [step(name, booked) for name in ("one", "two")]
        Leased.ending(self)
        return Response(done, status=201)


@idempotent_view(operation="leased.plain", policy=LEASED)
def plain(request):
    if "raise" in request.GET:
        raise RuntimeError("asked for")
    return JsonResponse(booked(), status=201)


def leased(**changes):
    return Leased.as_view(idempotency_policy=Policy(execution="leased", **changes))


router = routers.SimpleRouter()
router.register("viewset", LeasedViewSet)

urlpatterns = [
    path("leased/", leased()),
    path("required/", leased(required=True)),
    path("held/", leased(on_abandoned="hold")),
    path("remembering/", leased(remember_errors={402})),
    path("observed/", leased(mode="observe")),
    path("steps/", Stepped.as_view()),
    path("plain/", plain),
    path("", include(router.urls)),
]
pytestmark = [
    pytest.mark.urls(__name__),
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_db"),
]
servers = pytest.mark.vendors("postgresql", "mysql")
views = pytest.mark.parametrize("url", ["/leased/", "/steps/", "/plain/", "/viewset/"])

ONE = {"name": "one", "seats": 1}


@pytest.fixture
def bookings():
    """How many effects there are."""
    return Booking.objects.count


def ends_with(monkeypatch, error):
    """Have the views fail after their work, or do what a function says."""

    def ending(view):
        if callable(error):
            return error()
        raise error

    monkeypatch.setattr(Leased, "ending", ending)


def works_again(monkeypatch):
    monkeypatch.setattr(Leased, "ending", lambda view: None)


def steal():
    """Take the key away from whoever has it, as a take-over does."""
    elsewhere(IdempotencyRecord.objects.update, attempt=F("attempt") + 1)


@servers
@views
def test_a_duplicate_gets_the_same_reply(api, bookings, url):
    first = api.ask(url, ONE)
    assert first.status_code == 201
    once = bookings()
    assert_same_reply(first, api.ask(url, ONE))
    assert_refused(api.ask(url, ONE | {"seats": 2}), 409, "idempotency_key_reused")
    assert bookings() == once


@servers
@views
def test_without_a_key_a_request_is_leased_under_one_of_its_own(api, bookings, url):
    """And behaves the same, steps included; nothing of it is ever met again."""
    replies = [api.ask(url, ONE, key=None) for _ in range(2)]
    assert [reply.status_code for reply in replies] == [201, 201]
    assert replies[0].content != replies[1].content
    assert not any(map(replayed, replies))
    keys = set(IdempotencyRecord.objects.values_list("key", flat=True))
    assert len(keys) == len({UUID(key) for key in keys}) == 2
    assert set(IdempotencyRecord.objects.values_list("state", flat=True)) == {State.FINISHED}


@servers
def test_without_a_key_it_is_fenced_all_the_same(api, bookings, monkeypatch):
    ends_with(monkeypatch, steal)
    response = api.ask("/leased/", ONE, key=None)
    assert_refused(response, 503, "idempotency_unavailable", retry_after=True)
    assert bookings() == 0


@servers
def test_keys_are_checked_as_ever(api, bookings):
    assert_refused(api.ask("/required/", ONE, key=None), 400, "idempotency_key_required")
    assert_refused(api.ask("/leased/", ONE, key="a b"), 400, "idempotency_key_invalid")
    assert (bookings(), IdempotencyRecord.objects.count()) == (0, 0)


@servers
@pytest.mark.parametrize(
    ("error", "status"), [(exceptions.ParseError(), 400), (RuntimeError("broken"), 500)]
)
@pytest.mark.parametrize("url", ["/leased/", "/remembering/"])
def test_an_error_undoes_the_work_and_frees_the_key(
    api, bookings, happened, monkeypatch, url, error, status
):
    ends_with(monkeypatch, error)
    assert api.ask(url, ONE).status_code == status
    assert (bookings(), record().state) == (0, State.RELEASED)
    assert happened.named("failed") == [type(error).__name__]
    works_again(monkeypatch)
    # It is another request by now: the first one was corrected.
    corrected = api.ask(url, ONE | {"seats": 2})
    assert (corrected.status_code, corrected.json()["attempt"]) == (201, 3)


@servers
def test_an_error_of_a_plain_view_frees_the_key(api, bookings):
    assert api.ask("/plain/?raise", ONE).status_code == 500
    assert record().state == State.RELEASED
    assert api.ask("/plain/", ONE).status_code == 201
    assert bookings() == 1


@servers
def test_a_remembered_error_is_replayed_as_it_was_rendered(api, bookings, monkeypatch):
    ends_with(monkeypatch, PaymentRequired("declined"))
    first = api.ask("/remembering/", ONE)
    works_again(monkeypatch)
    assert_same_reply(first, api.ask("/remembering/", ONE))
    assert (first.status_code, bookings()) == (402, 0)


@servers
def test_a_lost_lease_is_unavailable_and_worth_a_retry(api, bookings, happened, monkeypatch):
    ends_with(monkeypatch, steal)
    response = api.ask("/leased/", ONE)
    assert_refused(response, 503, "idempotency_unavailable", retry_after=True)
    assert happened.named("lease_lost") == [""]
    assert bookings() == 0


@servers
def test_a_key_that_is_held_says_so_and_asks_for_no_retry(api, bookings, monkeypatch):
    ends_with(monkeypatch, RuntimeError("the card network did not answer"))
    assert api.ask("/held/", ONE).status_code == 500
    works_again(monkeypatch)
    for _ in range(2):
        assert_refused(api.ask("/held/", ONE), 409, "idempotency_outcome_unknown")
    assert_refused(api.ask("/held/", ONE | {"seats": 2}), 409, "idempotency_key_reused")
    assert bookings() == 0


@servers
def test_a_key_that_is_held_is_freed_by_a_refusal(api, monkeypatch):
    ends_with(monkeypatch, exceptions.ValidationError("no"))
    assert api.ask("/held/", ONE).status_code == 400
    works_again(monkeypatch)
    assert api.ask("/held/", ONE | {"seats": 2}).status_code == 201


@servers
def test_steps_are_resumed_by_the_same_request_only(api, monkeypatch):
    ends_with(monkeypatch, exceptions.ParseError())
    assert api.ask("/steps/", ONE).status_code == 400
    works_again(monkeypatch)
    assert_refused(api.ask("/steps/", ONE | {"seats": 2}), 409, "idempotency_key_reused")
    resumed = api.ask("/steps/", ONE)
    assert [done["attempt"] for done in resumed.json()] == [1, 1]
    assert list(Booking.objects.order_by("pk").values_list("name", flat=True)) == [
        "k-1-one",
        "k-1-two",
    ]


@servers
def test_a_change_of_the_steps_is_the_servers_fault(api, bookings, happened, monkeypatch):
    ends_with(monkeypatch, exceptions.ParseError())
    api.ask("/steps/", ONE)
    monkeypatch.setattr(Stepped, "post", Leased.post)
    works_again(monkeypatch)
    assert api.ask("/steps/", ONE).status_code == 500
    assert happened.named("failed") == ["ParseError", "StepChanged"]
    assert (bookings(), record().state) == (2, State.ABANDONED)


@servers
def test_atomic_requests_wraps_no_leased_view(api, bookings, monkeypatch):
    """Its claim has to commit first, and a step by itself."""
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    ends_with(monkeypatch, RuntimeError("broken"))
    assert api.ask("/steps/", ONE).status_code == 500
    assert bookings() == 2
    works_again(monkeypatch)
    first = api.ask("/steps/", ONE)
    assert first.status_code == 201
    assert_same_reply(first, api.ask("/steps/", ONE))


@servers
def test_observed_requests_all_run(api, bookings, happened):
    for data in (ONE, ONE, ONE | {"seats": 2}):
        assert not replayed(api.ask("/observed/", data))
    assert not replayed(api.ask("/observed/", ONE, key="a b"))
    assert bookings() == 4
    assert happened.named("observed") == [
        "executed",
        "replayed",
        "idempotency_key_reused",
        "executed_by_fingerprint",
    ]


@servers
def test_it_costs_a_transaction_more_than_an_atomic_one(api):
    """The claim's, and on PostgreSQL the limit of silence of the handler's own; no heartbeat, where
    the handler ends before the first beat."""
    api.ask("/leased/", ONE, key="warm")
    with CaptureQueriesContext(connection) as queries:
        api.ask("/leased/", ONE)
    words = [query["sql"].split()[0] for query in queries]
    expected = {
        "postgresql": ["INSERT", "SELECT", "INSERT", "UPDATE"],
        "mysql": ["SELECT", "SELECT", "SET", "INSERT", "UPDATE", "SELECT"],
    }
    found = [word for word in words if word not in ("BEGIN", "COMMIT")]
    assert found == expected[connection.vendor]


@servers
def test_a_retry_of_a_finished_one_asks_no_database(api):
    api.ask("/leased/", ONE)
    with CaptureQueriesContext(connection) as queries:
        assert replayed(api.ask("/leased/", ONE))
    assert len(queries) == 0


@servers
def test_a_retry_takes_over_what_was_left(api, monkeypatch):
    """By a process that was killed; in between, the key is in progress."""

    def die():
        raise SystemExit

    ends_with(monkeypatch, die)
    monkeypatch.setattr("idempotency.leased._leave", lambda *args, **kwargs: None)
    with pytest.raises(SystemExit):
        api.ask("/leased/", ONE)
    works_again(monkeypatch)
    assert record().state == State.RUNNING
    expire()
    assert api.ask("/leased/", ONE).json()["attempt"] == 2


@servers
@pytest.mark.django_db
@views
def test_in_a_testcase_leased_views_just_work(api, bookings, url):
    """As users test them, without ever committing."""
    assert connection.in_atomic_block
    first = api.ask(url, ONE)
    assert first.status_code == 201
    assert_same_reply(first, api.ask(url, ONE))


@servers
@pytest.mark.django_db
def test_in_a_testcase_an_error_undoes_the_work_and_frees_the_key(api, bookings, monkeypatch):
    ends_with(monkeypatch, exceptions.ParseError())
    assert api.ask("/leased/", ONE).status_code == 400
    works_again(monkeypatch)
    assert api.ask("/leased/", ONE).status_code == 201
    assert bookings() == 1


@pytest.mark.vendors("sqlite")
@pytest.mark.parametrize("key", ["k-1", None])
def test_on_sqlite_they_are_refused_before_anything_is_written(api, bookings, key):
    api.raise_request_exception = True
    with pytest.raises(Exception, match="'default' is SQLite"):
        api.ask("/leased/", ONE, key=key)
    assert (bookings(), IdempotencyRecord.objects.count()) == (0, 0)
