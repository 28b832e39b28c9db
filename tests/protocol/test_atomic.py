"""The atomic execution: what committed is remembered, what rolled back is forgotten."""

from datetime import timedelta

import pytest
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone

from idempotency import events, exceptions
from idempotency.keys import child_key, current_key
from idempotency.models import IdempotencyRecord
from tests.app.models import Booking, Ticket
from tests.concurrent import elsewhere

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("rooms")]


def book(status=201):
    """A handler: one effect, one reply that tells it apart."""
    booking = Booking.objects.create(name="Ada")
    return HttpResponse(f'{{"id":{booking.pk}}}', status=status, content_type="application/json")


def age(**shifts):
    """Move a record's times, as if they had passed."""
    now = timezone.now()
    IdempotencyRecord.objects.update(**{name: now + shift for name, shift in shifts.items()})


class Counted:
    """How often each event was recorded since this was made."""

    def __init__(self):
        self._before = events.counts()

    def __getitem__(self, name):
        return events.counts().get(name, 0) - self._before.get(name, 0)


def test_a_duplicate_gets_the_same_reply_and_runs_nothing(ask, bookings):
    first = ask(book)
    for _ in range(3):
        again = ask(book)
        assert (again.status_code, again.content) == (201, first.content)
        assert again["Content-Type"] == "application/json"
        assert again["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first
    assert bookings() == 1


def test_it_is_the_cache_that_answers_where_there_is_one(ask, rooms):
    counted = Counted()
    ask(book)
    ask(book)
    layer = "cache" if rooms in ("redis", "local") else "ledger"
    assert counted[f"replayed.{layer}"] == counted["replayed"] == counted["executed"] == 1
    assert counted["constraint_caught"] == (0 if layer == "cache" else 1)


def test_other_keys_callers_and_operations_run_themselves(ask, bookings):
    replies = {
        ask(book).content,
        ask(book, key="other").content,
        ask(book, caller="user:2").content,
    }
    assert len(replies) == bookings() == 3


def test_an_exception_goes_through_untouched_and_frees_the_key(ask, bookings):
    error = ValueError("no")

    def fail():
        Booking.objects.create(name="undone")
        raise error

    with pytest.raises(ValueError, match="no") as raised:
        ask(fail)
    assert raised.value is error
    assert bookings() == 0
    assert ask(book).status_code == 201


@pytest.mark.parametrize("status", [200, 302, 400, 404, 499])
def test_a_returned_reply_below_500_is_remembered(ask, bookings, status):
    assert ask(lambda: book(status)).status_code == status
    assert ask(book).status_code == status
    assert bookings() == 1


def test_a_returned_server_error_is_undone_and_forgotten(ask, bookings):
    counted = Counted()
    assert ask(lambda: book(503)).status_code == 503
    assert bookings() == 0
    assert ask(book).status_code == 201
    assert counted["failed.503"] == 1


def test_a_marked_transaction_passes_its_reply_on_and_keeps_the_key_free(ask, bookings):
    counted = Counted()

    def mark():
        response = book()
        transaction.set_rollback(True)
        return response

    assert ask(mark).status_code == 201
    assert (bookings(), counted["rolled_back"]) == (0, 1)
    assert "Idempotent-Replayed" not in ask(book)
    assert bookings() == 1


@pytest.mark.vendors("postgresql")
def test_a_swallowed_database_error_keeps_the_key_free(ask, bookings):
    counted = Counted()

    def swallow():
        response = book()
        with pytest.raises(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT 1/0")
        return response

    assert ask(swallow).status_code == 201
    assert (bookings(), counted["rolled_back"]) == (0, 1)
    assert "Idempotent-Replayed" not in ask(book)


@pytest.mark.vendors("postgresql", "sqlite")
def test_a_commit_that_is_refused_is_the_handlers_own_error(ask, bookings):
    def dangle():
        response = book()
        Ticket.objects.create(booking_id=10**9)
        return response

    with pytest.raises(IntegrityError):
        ask(dangle)
    assert bookings() == 0
    assert "Idempotent-Replayed" not in ask(book)


def test_a_hook_that_fails_after_the_commit_leaves_the_key_used(ask, bookings):
    def book_and_hook():
        transaction.on_commit(lambda: 1 / 0)
        return book()

    with pytest.raises(ZeroDivisionError):
        ask(book_and_hook)
    assert ask(book)["Idempotent-Replayed"] == "true"
    assert bookings() == 1


def test_a_streaming_reply_is_refused_and_undone(ask, bookings):
    def stream():
        book()
        return StreamingHttpResponse([b"x"])

    with pytest.raises(ImproperlyConfigured, match="streaming"):
        ask(stream)
    assert bookings() == 0


def test_a_reply_too_large_to_keep_is_never_run_again(ask, bookings, settings):
    settings.IDEMPOTENCY_MAX_BODY = 100

    def large():
        book()
        return HttpResponse(b"x" * 101)

    assert len(ask(large).content) == 101
    with pytest.raises(exceptions.ReplyNotKept):
        ask(large)
    assert bookings() == 1


def test_another_body_is_refused_with_the_fields_that_differ(ask, bookings):
    ask(book, body={"name": "Ada", "seats": 1, "note": None})
    with pytest.raises(exceptions.KeyReused) as refused:
        ask(book, body={"name": "Ada", "seats": "1", "extra": 1})
    assert refused.value.mismatched_fields == ("extra", "note", "seats")
    assert bookings() == 1


def test_lenient_forgives_the_body_and_never_the_path(ask, bookings):
    ask(book, mismatch="lenient")
    assert ask(book, body={"name": "Eve"}, mismatch="lenient")["Idempotent-Replayed"] == "true"
    with pytest.raises(exceptions.KeyReused):
        ask(book, path="/bookings/?dry=1", mismatch="lenient")
    with pytest.raises(exceptions.KeyReused):
        ask(book, path="/others/", mismatch="lenient")
    assert bookings() == 1


def test_an_expired_key_is_refused_until_its_tombstone_is_gone(ask, bookings, rooms):
    ask(book, ttl=1.5)
    age(expires_at=-timedelta(seconds=1))
    forget_cached(rooms)
    with pytest.raises(exceptions.KeyExpired):
        ask(book)
    age(purge_at=-timedelta(seconds=1))
    assert "Idempotent-Replayed" not in ask(book)
    assert bookings() == 2
    assert IdempotencyRecord.objects.get().attempt == 2


def forget_cached(rooms):
    if rooms in ("redis", "local"):
        caches["default"].clear()


def test_emptied_caches_lose_speed_and_nothing_else(ask, bookings, rooms):
    first = ask(book)
    forget_cached(rooms)
    again = ask(book)
    assert again.content == first.content
    assert bookings() == 1


def test_a_claim_that_was_stolen_writes_nothing(ask, bookings):
    counted = Counted()

    def stolen():
        response = book()
        IdempotencyRecord.objects.update(attempt=7)
        return response

    with pytest.raises(exceptions.Unavailable):
        ask(stolen)
    assert (bookings(), counted["lease_lost"]) == (0, 1)
    assert not IdempotencyRecord.objects.exists()


def test_the_handler_knows_its_key_and_derives_its_childrens(ask):
    seen = []

    def look():
        seen.append((current_key(), child_key("billing")))
        return book()

    ask(look, key="parent")
    assert seen == [("parent", "parent-billing")]


def test_a_hook_after_the_commit_still_knows_the_key(ask):
    """Where a message to another service is sent from."""
    seen = []

    def hook():
        transaction.on_commit(lambda: seen.append(child_key("billing")))
        return book()

    ask(hook, key="parent")
    assert seen == ["parent-billing"]
    with pytest.raises(LookupError):
        current_key()


@pytest.mark.vendors("postgresql", "mysql")
def test_a_connection_lost_in_the_handler_is_an_unknown_outcome(ask, bookings):
    own = {"postgresql": "SELECT pg_terminate_backend(pg_backend_pid())"}
    suicide = own.get(connection.vendor, "KILL CONNECTION CONNECTION_ID()")

    def cut():
        book()
        with connection.cursor() as cursor:
            cursor.execute(suicide)
            cursor.execute("SELECT 1")

    with pytest.raises(exceptions.Unavailable) as refused:
        ask(cut)
    assert refused.value.wait == 1
    assert ask(book).status_code == 201
    assert bookings() == 1


@pytest.mark.vendors("postgresql")
def test_a_connection_lost_at_the_commit_is_an_unknown_outcome(ask, bookings):
    """The reply stands in the ledger's statement, but nobody answered the COMMIT."""

    def cut_at_the_end():
        response = book()
        backend = connection.connection.info.backend_pid
        finish = connection.connection.commit

        def commit():
            elsewhere(terminate, backend)
            finish()

        connection.connection.commit = commit
        return response

    with pytest.raises(exceptions.Unavailable):
        ask(cut_at_the_end)
    assert bookings() == 0
    assert "Idempotent-Replayed" not in ask(book)


def terminate(backend):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])


def test_observe_runs_everything_and_counts(ask, bookings):
    counted = Counted()
    for body in ({"name": "Ada"}, {"name": "Ada"}, {"name": "Eve"}):
        assert "Idempotent-Replayed" not in ask(book, body=body, mode="observe")
    assert bookings() == 3
    assert counted["observed.executed"] == 1
    assert counted["observed.replayed"] == 1
    assert counted["observed.idempotency_key_reused"] == 1


@pytest.mark.vendors("postgresql")
def test_observe_tells_of_a_database_that_is_gone_as_ever(ask):
    def lose_it():
        elsewhere(terminate, connection.connection.info.backend_pid)
        return book()

    with pytest.raises(exceptions.Unavailable):
        ask(lose_it, mode="observe")


def test_a_protected_action_refuses_to_run_inside_a_transaction(ask):
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        ask(book)
