"""ATOMIC_REQUESTS: protected actions get the protocol's transaction, all else exactly Django's."""

from collections.abc import Iterator

import pytest
from django.db import connections, transaction
from django.http import HttpResponse
from django.test import TestCase
from django.urls import path
from django.utils.decorators import method_decorator
from rest_framework import exceptions, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.decorators import idempotent_view
from idempotency.models import IdempotencyRecord
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking, Ticket
from tests.http.asking import Caller, assert_same_reply, assert_untouched, replayed

#: Each handler's view of the transactions: (alias, in a block, how deep).
seen: list[tuple[str, bool, int]] = []


def look() -> None:
    for alias in connections:
        connection = connections[alias]
        blocks = len(connection.atomic_blocks) if connection.in_atomic_block else 0
        seen.append((alias, connection.in_atomic_block, blocks))


def book(view, request):
    """Book, look at the transactions, and end as the query says."""
    look()
    Booking.objects.create(name="one")
    if "raise" in request.query_params:
        raise exceptions.ParseError("asked for")
    if "break" in request.query_params:
        raise RuntimeError("asked for")
    return Response({}, status=201)


class Bookings(IdempotencyMixin, APIView):
    post = get = put = book


class Exempt(Bookings):
    @method_decorator(transaction.non_atomic_requests)
    def dispatch(self, request, *args, **kwargs):
        return super().dispatch(request, *args, **kwargs)


class BookingViewSet(IdempotencyMixin, viewsets.ViewSet):
    create = book

    @action(detail=False, methods=["post"])
    def plain(self, request):
        return book(self, request)


@idempotent_view(operation="plain")
def plain(request):
    look()
    Booking.objects.create(name="one")
    return HttpResponse(status=201)


urlpatterns = [
    path("bookings/", Bookings.as_view()),
    path("remembering/", Bookings.as_view(idempotency_policy=Policy(remember_errors={402}))),
    path("second/", Bookings.as_view(idempotency_policy=Policy(using="second"))),
    path("exempt/", Exempt.as_view()),
    path("exempt-outside/", transaction.non_atomic_requests(Bookings.as_view())),
    path("exempt-second/", transaction.non_atomic_requests(using="second")(Bookings.as_view())),
    path("viewset/", BookingViewSet.as_view({"post": "create"})),
    path("viewset/plain/", BookingViewSet.as_view({"post": "plain"})),
    path("function/", plain),
]
pytestmark = [pytest.mark.urls(__name__)]
committed = pytest.mark.django_db(transaction=True)

PROTECTED = ["/bookings/", "/remembering/", "/exempt/", "/exempt-outside/", "/viewset/"]


@pytest.fixture(autouse=True)
def _nothing_seen():
    seen.clear()


@pytest.fixture
def atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch, transactional_db: None) -> Iterator[str]:
    """Another alias of the same database, with ATOMIC_REQUESTS."""
    configured = connections.settings["default"] | {"ATOMIC_REQUESTS": True}
    monkeypatch.setitem(connections.settings, "second", configured)
    # Django's TestCase refuses to open connections that a test has not declared beforehand.
    connections["second"].connect()
    yield "second"
    connections["second"].close()
    del connections["second"]


# Protected


@pytest.mark.parametrize("url", [*PROTECTED, "/function/"])
@pytest.mark.parametrize("key", ["k-1", None], ids=["key", "no key"])
@committed
def test_a_protected_action_runs_in_one_transaction_of_its_own(
    redis_db, api, atomic_requests, url, key
):
    """Not nested in Django's: it must be the outermost to be durable."""
    assert api.ask(url, key=key).status_code == 201
    depth = 2 if key and url == "/remembering/" else 1
    assert seen == [("default", True, depth)]
    assert Booking.objects.count() == 1


@pytest.mark.parametrize("url", [*PROTECTED, "/function/"])
@pytest.mark.django_db
def test_a_protected_action_is_replayed_as_ever(redis_db, api, atomic_requests, url):
    assert_same_reply(api.ask(url), api.ask(url))
    assert Booking.objects.count() == 1


@pytest.mark.parametrize("url", PROTECTED)
@pytest.mark.parametrize("key", ["k-1", None], ids=["key", "no key"])
@committed
def test_a_raised_400_is_a_400(redis_db, api, atomic_requests, url, key):
    """Not a 500 over a broken transaction; the work is undone and the key free."""
    response = api.ask(f"{url}?raise", key=key)
    assert (response.status_code, response.json()) == (400, {"detail": "asked for"})
    assert not Booking.objects.exists()
    assert_untouched(redis_db)
    assert api.ask(url, key=key).status_code == 201


# Unprotected


@pytest.mark.parametrize(
    ("url", "method"), [("/bookings/", "get"), ("/bookings/", "put"), ("/viewset/plain/", "post")]
)
@committed
def test_an_unprotected_action_runs_in_djangos_block(redis_db, api, atomic_requests, url, method):
    """One block, as without the mixin; a raised error undoes its work."""
    assert api.ask(url, method=method).status_code == 201
    assert seen == [("default", True, 1)]
    for ending, status in (("raise", 400), ("break", 500)):
        response = api.generic(method.upper(), f"{url}?{ending}")
        assert response.status_code == status
    assert Booking.objects.count() == 1


@pytest.mark.parametrize("method", ["get", "put"])
@committed
def test_without_atomic_requests_an_unprotected_action_has_no_block(redis_db, api, method):
    api.ask("/bookings/", method=method)
    assert seen == [("default", False, 0)]


@pytest.mark.parametrize("url", ["/exempt/", "/exempt-outside/"])
@committed
def test_non_atomic_requests_is_honoured_where_nothing_is_protected(
    redis_db, api, atomic_requests, url
):
    """Written on dispatch, or around as_view()."""
    api.ask(url, method="get")
    assert seen == [("default", False, 0)]


# Another alias


@pytest.mark.parametrize("key", ["k-1", None], ids=["key", "no key"])
def test_another_alias_with_atomic_requests_gets_its_block(redis_db, api, second, key):
    api.ask("/bookings/", key=key)
    assert sorted(seen) == [("default", True, 1), ("second", True, 1)]


def test_another_aliass_block_is_rolled_back_for_a_raised_error(redis_db, api, second, monkeypatch):
    """DRF marks it, and our care for our own alias must not undo that."""

    def write_there(view, request):
        Booking.objects.using("second").create(name="there")
        raise exceptions.ParseError

    monkeypatch.setattr(Bookings, "post", write_there)
    assert api.ask("/bookings/").status_code == 400
    assert not Booking.objects.exists()


def test_another_aliass_refused_commit_frees_the_key(redis_db, api, second, monkeypatch):
    """It commits before ours: a success is never stored for work that the other one has lost."""

    def dangle_there(view, request):
        Booking.objects.create(name="here")
        Ticket.objects.using("second").create(booking_id=10**9)
        return Response({}, status=201)

    with monkeypatch.context() as patched:
        patched.setattr(Bookings, "post", dangle_there)
        assert api.ask("/bookings/").status_code == 500
    assert not Booking.objects.exists()
    again = api.ask("/bookings/")
    assert (again.status_code, replayed(again)) == (201, False)


def test_an_exempted_alias_gets_none(redis_db, api, second):
    api.ask("/exempt-second/")
    assert sorted(seen) == [("default", True, 1), ("second", False, 0)]


def test_the_policys_alias_has_the_transaction(redis_db, api, second, atomic_requests):
    """`using` takes the protocol there; the default alias gets Django's block."""
    assert_same_reply(api.ask("/second/"), api.ask("/second/"))
    assert sorted(seen) == [("default", True, 1), ("second", True, 1)]


# Inside a TestCase


class InsideATestCase(TestCase):
    """A project's own tests run the app in a transaction that is never committed."""

    client: Caller
    client_class = Caller

    def test_two_requests_with_a_raised_400_between(self):
        """DRF's set_rollback() must not reach the TestCase's transaction."""
        assert self.client.ask("/bookings/").status_code == 201
        assert self.client.ask("/bookings/?raise", key="k-2").status_code == 400
        assert self.client.ask("/bookings/?raise", key=None).status_code == 400
        assert not connections["default"].needs_rollback
        assert self.client.ask("/bookings/", key="k-2").status_code == 201
        assert Booking.objects.count() == 2

    def test_an_error_nobody_handles_leaves_the_transaction_usable(self):
        assert self.client.ask("/bookings/?break").status_code == 500
        assert self.client.ask("/bookings/").status_code == 201
        assert Booking.objects.count() == 1

    def test_a_duplicate_is_replayed_from_the_ledger(self):
        first, again = (self.client.ask("/bookings/") for _ in range(2))
        assert_same_reply(first, again)


@pytest.mark.django_db
def test_two_requests_with_a_raised_400_between_under_atomic_requests(
    redis_db, api, atomic_requests
):
    """Where DRF's set_rollback() does something."""
    assert api.ask("/bookings/").status_code == 201
    assert api.ask("/bookings/?raise", key="k-2").status_code == 400
    assert not connections["default"].needs_rollback
    assert api.ask("/bookings/", key="k-2").status_code == 201
    assert Booking.objects.count() == 2


@pytest.mark.django_db
def test_nothing_is_published_from_inside_a_test_case(redis_db, api, happened):
    """Neither after an execution nor after a replay; the lock is given back each time."""
    for _ in range(3):
        api.ask("/bookings/")
        assert [name for name in redis_db.keys("*") if not name.endswith(b":wake")] == []
    assert happened.named("replayed") == ["ledger", "ledger"]
    assert IdempotencyRecord.objects.count() == 1


@pytest.mark.parametrize("run", [1, 2])
@pytest.mark.django_db
def test_one_test_cases_keys_are_new_to_the_next(api, run):
    """Redis is not emptied between these two; the database is rolled back."""
    assert not replayed(api.ask("/bookings/", key="the same in both"))
