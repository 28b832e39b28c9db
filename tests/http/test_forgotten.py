"""What rolled back, or never ran, is forgotten: the key is free and nothing is stored."""

import pytest
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, connection, transaction
from django.http import Http404
from django.urls import path
from rest_framework import exceptions
from rest_framework.authentication import TokenAuthentication
from rest_framework.permissions import BasePermission, IsAdminUser, IsAuthenticated
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from idempotency.models import IdempotencyRecord
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking, Ticket
from tests.factories import UserFactory
from tests.http.asking import (
    BookingSerializer,
    Caller,
    assert_same_reply,
    assert_untouched,
    caller_of,
    replayed,
)


class Bookings(IdempotencyMixin, APIView):
    authentication_classes = [TokenAuthentication]

    def post(self, request):
        serializer = BookingSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        serializer.save()
        return Response(serializer.data, status=201)


class Closed(Bookings):
    permission_classes = [IsAuthenticated]


class Staff(Bookings):
    permission_classes = [IsAdminUser]


class Hidden(Bookings):
    class Hides(BasePermission):
        def has_permission(self, request, view):
            if not request.user.is_staff:
                raise Http404
            return True

    permission_classes = [Hides]


class Counting(BaseThrottle):
    """Lets so many requests through."""

    left = 0

    def allow_request(self, request, view):
        Counting.left -= 1
        return Counting.left >= 0

    def wait(self):
        return 7


class Throttled(Bookings):
    throttle_classes = [Counting]


class ReadOnly(IdempotencyMixin, APIView):
    """Protects POST by default, and has none."""

    def get(self, request):
        return Response({})


class Faulty(Bookings):
    """Writes, then does what the test says: raise, or answer."""

    def ending(self) -> Response:
        raise NotImplementedError

    def post(self, request):
        super().post(request)
        return Faulty.ending(self)


urlpatterns = [
    path("bookings/", Bookings.as_view()),
    path("closed/", Closed.as_view()),
    path("staff/", Staff.as_view()),
    path("hidden/", Hidden.as_view()),
    path("throttled/", Throttled.as_view()),
    path("read-only/", ReadOnly.as_view()),
    path("faulty/", Faulty.as_view()),
    path("remembering/", Faulty.as_view(idempotency_policy=Policy(remember_errors={402}))),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]
committed = pytest.mark.django_db(transaction=True)

ONE = {"name": "one", "seats": 1}


# Refused before the handler


@pytest.mark.parametrize(
    ("url", "status", "caller"),
    [
        ("/closed/", 401, Caller),
        ("/closed/", 401, lambda: Caller(HTTP_AUTHORIZATION="Token wrong")),
        ("/staff/", 403, lambda: caller_of(UserFactory.create())),
        ("/hidden/", 404, lambda: caller_of(UserFactory.create())),
        ("/read-only/", 405, Caller),
    ],
    ids=["401", "401 of a wrong token", "403", "404 by permission", "405"],
)
def test_a_refused_request_never_touches_the_key(redis_db, happened, url, status, caller):
    response = caller().ask(url, ONE)
    assert response.status_code == status
    assert_untouched(redis_db)
    assert happened == []


def test_a_throttled_request_never_touches_the_key(redis_db, api, happened, monkeypatch):
    monkeypatch.setattr(Counting, "left", 0)
    response = api.ask("/throttled/", ONE)
    assert (response.status_code, response["Retry-After"]) == (429, "7")
    assert_untouched(redis_db)
    monkeypatch.setattr(Counting, "left", 1)
    assert api.ask("/throttled/", ONE).status_code == 201


@committed
def test_a_replay_is_throttled_like_any_request(redis_db, api, monkeypatch):
    """Throttles come before the stored reply, and the 429 does not replace it."""
    monkeypatch.setattr(Counting, "left", 1)
    first = api.ask("/throttled/", ONE)
    assert api.ask("/throttled/", ONE).status_code == 429
    monkeypatch.setattr(Counting, "left", 1)
    assert_same_reply(first, api.ask("/throttled/", ONE))


@pytest.mark.parametrize(("url", "status"), [("/staff/", 403), ("/hidden/", 404)])
@committed
def test_a_stored_reply_is_gone_with_the_permission(redis_db, url, status):
    """And back with it: it was neither shown nor replaced meanwhile."""
    user = UserFactory.create(is_staff=True)
    caller = caller_of(user)
    first = caller.ask(url, ONE)
    user.is_staff = False
    user.save()
    refused = caller.ask(url, ONE)
    assert (refused.status_code, replayed(refused)) == (status, False)
    user.is_staff = True
    user.save()
    assert_same_reply(first, caller.ask(url, ONE))


@committed
def test_a_stored_reply_is_gone_with_the_token(redis_db):
    user = UserFactory.create()
    caller = caller_of(user)
    caller.ask("/closed/", ONE)
    user.auth_token.delete()
    refused = caller.ask("/closed/", ONE)
    assert (refused.status_code, replayed(refused)) == (401, False)


def test_validation_errors_leave_the_key_free(redis_db, api, happened):
    """The corrected request runs under the same key, though its body is another."""
    assert api.ask("/bookings/", {"seats": 1}).status_code == 400
    assert_untouched(redis_db)
    assert happened.named("failed") == ["ValidationError"]
    assert api.ask("/bookings/", ONE).status_code == 201


# Raised by the handler


def raises(error: BaseException):
    def ending(view):
        raise error

    return ending


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (exceptions.ParseError(), 400),
        (exceptions.PermissionDenied(), 403),
        (exceptions.NotFound(), 404),
        (Http404(), 404),
        (PermissionDenied(), 403),
        (exceptions.Throttled(5), 429),
        (exceptions.APIException(), 500),
        (RuntimeError("broken"), 500),
        (DatabaseError("broken"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@pytest.mark.parametrize("url", ["/faulty/", "/remembering/"])
def test_a_raised_error_undoes_the_work_and_frees_the_key(
    redis_db, api, happened, monkeypatch, url, error, status
):
    """Handled or not; the next request under the key runs at once."""
    monkeypatch.setattr(Faulty, "ending", raises(error))
    assert api.ask(url, ONE).status_code == status
    assert not Booking.objects.exists()
    assert_untouched(redis_db)
    assert len(happened.named("failed")) == 1
    monkeypatch.setattr(Faulty, "ending", lambda view: Response(status=201))
    retried = api.ask(url, ONE)
    assert (retried.status_code, replayed(retried)) == (201, False)
    assert Booking.objects.count() == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@committed
def test_a_worker_that_is_stopped_leaves_the_key_free(redis_db, api, monkeypatch, error):
    """Not even an Exception, as where gunicorn ends a worker that took too long."""
    monkeypatch.setattr(Faulty, "ending", raises(error()))
    with pytest.raises(error):
        api.ask("/faulty/", ONE)
    assert not Booking.objects.exists()
    assert_untouched(redis_db)


def test_without_a_key_a_raised_error_undoes_the_work_too(redis_db, api, monkeypatch):
    """A protected action runs in a transaction, key or no key."""
    monkeypatch.setattr(Faulty, "ending", raises(exceptions.ParseError()))
    assert api.ask("/faulty/", ONE, key=None).status_code == 400
    assert not Booking.objects.exists()


# Answered by the handler


@pytest.mark.parametrize("status", [200, 202, 204, 301, 400, 404, 409, 429])
def test_what_is_returned_below_500_is_kept(redis_db, api, monkeypatch, status):
    """Whatever its status: returning commits, and what committed is remembered."""
    monkeypatch.setattr(Faulty, "ending", lambda view: Response({"a": 1}, status=status))
    assert_same_reply(api.ask("/faulty/", ONE), api.ask("/faulty/", ONE))
    assert Booking.objects.count() == 1


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize("key", ["k-1", None], ids=["key", "no key"])
@committed
def test_a_returned_server_error_is_undone_and_forgotten(
    redis_db, api, happened, monkeypatch, status, key
):
    monkeypatch.setattr(Faulty, "ending", lambda view: Response({"a": 1}, status=status))
    response = api.ask("/faulty/", ONE, key=key)
    assert (response.status_code, response.json()) == (status, {"a": 1})
    assert not Booking.objects.exists()
    assert_untouched(redis_db)
    if key:
        assert happened.named("failed") == [str(status)]


def marked(view):
    transaction.set_rollback(True)
    return Response({"a": 1}, status=201)


def swallowed(view):
    """A database error that the handler takes no notice of; PostgreSQL has aborted by then."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1/0")
    except DatabaseError:
        pass
    return Response({"a": 1}, status=201)


@pytest.mark.parametrize("ending", [marked, swallowed])
@pytest.mark.parametrize("url", ["/faulty/", "/remembering/"])
@committed
def test_a_success_that_was_rolled_back_is_never_replayed(
    redis_db, api, happened, monkeypatch, ending, url
):
    """The handler's reply passes through; the key stays free, and it is counted."""
    monkeypatch.setattr(Faulty, "ending", ending)
    response = api.ask(url, ONE)
    assert (response.status_code, response.json()) == (201, {"a": 1})
    assert not Booking.objects.exists()
    assert_untouched(redis_db)
    assert happened.named("rolled_back") == ["201"]
    assert happened.named("executed") == []
    assert not replayed(api.ask(url, ONE))


@committed
def test_a_commit_that_is_refused_is_an_error_and_never_a_replayed_success(
    redis_db, api, happened, monkeypatch
):
    """A deferred constraint fails after the handler has answered 201."""

    def dangling(view):
        Ticket.objects.create(booking_id=-1)
        return Response(status=201)

    monkeypatch.setattr(Faulty, "ending", dangling)
    assert api.ask("/faulty/", ONE).status_code == 500
    assert not Booking.objects.exists()
    assert_untouched(redis_db)
    assert happened.named("executed") == []
    assert happened.named("failed") == ["IntegrityError"]
    monkeypatch.setattr(Faulty, "ending", lambda view: Response(status=201))
    assert api.ask("/faulty/", ONE).status_code == 201


@committed
def test_on_commit_hooks_run_when_the_work_stands(redis_db, api, monkeypatch):
    """Once, not for a replay; a hook that raises answers 500, yet the key is used."""
    calls = []

    def hooked(view):
        transaction.on_commit(lambda: calls.append(IdempotencyRecord.objects.count()))
        return Response({"a": 1}, status=201)

    monkeypatch.setattr(Faulty, "ending", hooked)
    api.ask("/faulty/", ONE)
    api.ask("/faulty/", ONE)
    assert calls == [1]

    def broken(view):
        transaction.on_commit(raises(RuntimeError("hook")))
        return Response({"a": 1}, status=201)

    monkeypatch.setattr(Faulty, "ending", lambda view: broken(None))
    assert api.ask("/faulty/", ONE, key="k-2").status_code == 500
    again = api.ask("/faulty/", ONE, key="k-2")
    assert (again.status_code, replayed(again)) == (201, True)


# Remembered errors


class PaymentRequired(exceptions.APIException):
    status_code = 402
    default_detail = "The card was declined."
    default_code = "declined"


@committed
def test_a_remembered_error_is_kept_and_its_work_undone(redis_db, api, happened, monkeypatch):
    """The record stands, the booking does not; cache and ledger replay the refusal."""
    monkeypatch.setattr(Faulty, "ending", raises(PaymentRequired()))
    first = api.ask("/remembering/", ONE)
    assert (first.status_code, first.json()) == (402, {"detail": "The card was declined."})
    assert not Booking.objects.exists()
    monkeypatch.setattr(Faulty, "ending", lambda view: Response(status=201))
    assert_same_reply(first, api.ask("/remembering/", ONE))
    redis_db.flushdb()
    assert_same_reply(first, api.ask("/remembering/", ONE))
    assert happened.named("replayed") == ["cache", "ledger"]
    assert not Booking.objects.exists()


def test_a_remembered_error_is_not_kept_without_a_key(redis_db, api, monkeypatch):
    monkeypatch.setattr(Faulty, "ending", raises(PaymentRequired()))
    assert api.ask("/remembering/", ONE, key=None).status_code == 402
    assert not Booking.objects.exists()
    assert_untouched(redis_db)


def test_a_status_that_is_not_named_is_forgotten(redis_db, api, monkeypatch):
    """The default policy names none."""
    monkeypatch.setattr(Faulty, "ending", raises(PaymentRequired()))
    assert api.ask("/faulty/", ONE).status_code == 402
    assert_untouched(redis_db)


def test_a_success_under_remember_errors_is_kept_with_its_work(redis_db, api, monkeypatch):
    monkeypatch.setattr(Faulty, "ending", lambda view: Response({"a": 1}, status=201))
    assert_same_reply(api.ask("/remembering/", ONE), api.ask("/remembering/", ONE))
    assert Booking.objects.count() == 1


@committed
def test_an_error_after_the_transaction_was_aborted_is_still_remembered(redis_db, api, monkeypatch):
    """The savepoint takes the aborted part back."""

    def declined(view):
        swallowed(view)
        raise PaymentRequired

    monkeypatch.setattr(Faulty, "ending", declined)
    assert_same_reply(api.ask("/remembering/", ONE), api.ask("/remembering/", ONE))
