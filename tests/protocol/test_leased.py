"""The leased execution: the claim commits first; effects and reply commit together, under it."""

import threading
from threading import Event

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone
from rest_framework.exceptions import NotFound

from idempotency import exceptions
from idempotency.heartbeat import Heartbeat
from idempotency.jobs import current_attempt, step
from idempotency.keys import child_key, current_key
from idempotency.models import IdempotencyRecord, State
from idempotency.work import Work
from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew, elsewhere
from tests.leased import (
    EVE,
    HOLD,
    PaymentRequired,
    Stopped,
    book,
    dangling,
    failing,
    marked,
    record,
    rendered,
)
from tests.protocol.test_atomic import Counted, terminate
from tests.protocol.test_crowd import Handler

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("rooms")]
servers = pytest.mark.vendors("postgresql", "mysql")
postgresql = pytest.mark.vendors("postgresql")


@pytest.fixture
def crew():
    with Crew() as crew:
        yield crew


def replayed(response):
    return "Idempotent-Replayed" in response


# The claim, and the commit


@servers
def test_the_claim_is_committed_before_the_handler_runs(leased):
    seen = []

    def look():
        seen.append(elsewhere(record))
        return book()

    leased(look)
    assert (seen[0].state, seen[0].attempt, seen[0].purge_at) == (State.RUNNING, 1, None)
    assert seen[0].lease_until > timezone.now()


@servers
def test_effects_and_reply_commit_together(leased, bookings):
    seen = []

    def look():
        response = book()
        seen.append((elsewhere(bookings), elsewhere(record).state))
        return response

    leased(look)
    assert seen == [(0, State.RUNNING)]
    assert (bookings(), record().state, record().lease_until) == (1, State.FINISHED, None)


@servers
def test_the_handler_runs_in_one_transaction(leased):
    """And cannot run inside another one, where its claim would not commit."""
    leased(lambda: HttpResponse(str(len(connection.atomic_blocks))), key="one")
    assert leased(book, key="one").content == b"1"
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        leased(book)


@servers
def test_a_duplicate_gets_the_same_reply_and_runs_nothing(leased, bookings, rooms):
    counted = Counted()
    first = leased(book)
    for _ in range(3):
        again = leased(book)
        assert (again.status_code, again.content) == (201, first.content)
        assert replayed(again)
    assert not replayed(first)
    assert (bookings(), counted["executed"]) == (1, 1)
    assert counted["replayed." + ("cache" if rooms in ("redis", "local") else "ledger")] == 3


@servers
def test_a_hook_that_fails_after_the_commit_leaves_the_key_used(leased, bookings):
    def book_and_hook():
        transaction.on_commit(lambda: 1 / 0)
        return book()

    with pytest.raises(ZeroDivisionError):
        leased(book_and_hook)
    assert replayed(leased(book))
    assert bookings() == 1


@servers
def test_handler_and_hooks_know_key_and_token(leased):
    seen: list[tuple] = []

    def look():
        seen.append((current_key(), child_key("billing"), current_attempt()))
        transaction.on_commit(lambda: seen.append((current_key(), child_key("billing"))))
        return book()

    leased(look, key="parent")
    assert seen == [("parent", "parent-billing", 1), ("parent", "parent-billing")]
    with pytest.raises(LookupError):
        current_attempt()


@servers
def test_a_hook_knows_the_token_however_long_it_takes(ask, bookings):
    """By then the heartbeat finds no running record any more: it is our own end that it sees."""
    seen = []

    def hook():
        thread = next(t for t in threading.enumerate() if t.name == "idempotency-lease")
        thread.join(PATIENCE)
        seen.append(current_attempt())

    def handler():
        transaction.on_commit(hook)
        return book()

    assert ask(handler, execution="leased", lease=1).status_code == 201
    assert (seen, bookings()) == ([1], 1)


@servers
@pytest.mark.parametrize("policy", [{}, HOLD], ids=["retry", "hold"])
@pytest.mark.parametrize("failing", ["heartbeat", "transaction"])
def test_what_fails_before_the_handler_leaves_the_key_free(
    leased, bookings, monkeypatch, policy, failing
):
    """Nothing was done, so nothing is unknown, and nobody waits for the end of a lease."""

    def fail(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as broken:
        broken.setattr({"heartbeat": Heartbeat, "transaction": Work}[failing], "__enter__", fail)
        with pytest.raises(RuntimeError, match="thread"):
            leased(book, **policy)
    assert record().state == State.RELEASED
    assert (leased(book, **policy).status_code, bookings()) == (201, 1)


# Duplicates of a running one


@servers
def test_duplicates_wait_for_the_reply(leased, crew, bookings):
    handler = Handler()
    first = crew.start(leased, handler)
    assert handler.entered.wait(PATIENCE)
    duplicates = [crew.start(leased, handler, wait_timeout=PATIENCE) for _ in range(3)]
    handler.leave.set()
    replies = [future.result(PATIENCE) for future in [first, *duplicates]]
    assert len({reply.content for reply in replies}) == bookings() == 1
    assert sum(map(replayed, replies)) == 3


@servers
@pytest.mark.parametrize("policy", [{"in_flight": "reject"}, {"wait_timeout": 0.3}])
def test_who_may_not_wait_is_refused_and_may_come_back(leased, crew, policy):
    handler = Handler()
    first = crew.start(leased, handler)
    assert handler.entered.wait(PATIENCE)
    with pytest.raises(exceptions.InProgress) as refused:
        leased(handler, **policy)
    assert refused.value.wait == 1
    handler.leave.set()
    assert leased(handler, wait_timeout=PATIENCE).content == first.result(PATIENCE).content


@servers
@pytest.mark.parametrize("in_flight", ["reject", "wait"])
def test_a_mismatch_is_known_while_the_first_runs_and_outranks_in_progress(leased, crew, in_flight):
    """The claim is committed, so the ledger tells it where no lock does."""
    handler = Handler()
    first = crew.start(leased, handler)
    assert handler.entered.wait(PATIENCE)
    with pytest.raises(exceptions.KeyReused):
        leased(handler, body=EVE, in_flight=in_flight, wait_timeout=PATIENCE)
    assert not first.done()
    handler.leave.set()
    first.result(PATIENCE)


@servers
def test_a_handler_may_outlast_the_lock(leased, crew, settings, bookings):
    """Redis forgets the owner; the lease is what counts."""
    settings.IDEMPOTENCY_LOCK_TIMEOUT = 0.2
    handler = Handler()
    first = crew.start(leased, handler)
    assert handler.entered.wait(PATIENCE)
    with pytest.raises(exceptions.InProgress):
        leased(handler, wait_timeout=1)
    handler.leave.set()
    assert leased(handler, wait_timeout=PATIENCE).content == first.result(PATIENCE).content
    assert bookings() == 1


# Endings without a reply to keep


@servers
@pytest.mark.parametrize("error", [NotFound(), ValueError("no"), Stopped()], ids=repr)
def test_an_exception_goes_through_untouched_and_frees_the_key(leased, bookings, error):
    with pytest.raises(type(error)) as raised:
        leased(failing(error))
    assert raised.value is error
    assert (bookings(), record().state) == (0, State.RELEASED)
    # For another request, too: of this one nothing is left.
    assert leased(book, body=EVE).status_code == 201
    assert bookings() == 1


@servers
@pytest.mark.parametrize("status", [200, 302, 404, 499])
def test_a_returned_reply_below_500_is_remembered(leased, bookings, status):
    assert leased(lambda: book(status)).status_code == status
    assert leased(book).status_code == status
    assert bookings() == 1


@servers
def test_a_returned_server_error_is_undone_and_forgotten(leased, bookings):
    counted = Counted()
    assert leased(lambda: book(503)).status_code == 503
    assert (bookings(), counted["failed.503"], counted["executed"]) == (0, 1, 0)
    assert not replayed(leased(book, body=EVE))
    assert bookings() == 1


def swallowed():
    response = book()
    with pytest.raises(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT 1/0")
    return response


@pytest.mark.parametrize(
    "handler", [pytest.param(marked, marks=servers), pytest.param(swallowed, marks=postgresql)]
)
def test_a_broken_transaction_passes_its_reply_on_and_keeps_the_key_free(leased, bookings, handler):
    counted = Counted()
    assert leased(handler).status_code == 201
    assert (bookings(), counted["rolled_back"]) == (0, 1)
    assert not replayed(leased(book))
    assert bookings() == 1


@postgresql
def test_a_commit_that_is_refused_is_the_handlers_own_error(leased, bookings):
    with pytest.raises(IntegrityError):
        leased(dangling)
    assert bookings() == 0
    assert not replayed(leased(book))


@servers
def test_a_streaming_reply_is_refused_and_undone(leased, bookings):
    def stream():
        book()
        return StreamingHttpResponse([b"x"])

    with pytest.raises(ImproperlyConfigured, match="streaming"):
        leased(stream)
    assert bookings() == 0
    assert leased(book).status_code == 201


@servers
def test_a_connection_lost_in_the_handler_is_an_unknown_outcome(leased, bookings):
    own = {"postgresql": "SELECT pg_terminate_backend(pg_backend_pid())"}
    suicide = own.get(connection.vendor, "KILL CONNECTION CONNECTION_ID()")

    def cut():
        book()
        with connection.cursor() as cursor:
            cursor.execute(suicide)
            cursor.execute("SELECT 1")

    with pytest.raises(exceptions.Unavailable) as refused:
        leased(cut)
    assert refused.value.wait == 1
    assert leased(book).status_code == 201
    assert bookings() == 1


@postgresql
def test_a_connection_lost_at_the_commit_is_an_unknown_outcome(leased, bookings):
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
        leased(cut_at_the_end)
    assert bookings() == 0
    assert not replayed(leased(book))


@postgresql
def test_a_commit_whose_answer_was_lost_is_replayed(leased, bookings):
    """The work stands: whoever asks again gets its reply."""

    def cut_after_the_commit():
        response = book()
        finish = connection.connection.commit

        def commit():
            finish()
            connection.connection.close()
            finish()

        connection.connection.commit = commit
        return response

    with pytest.raises(exceptions.Unavailable):
        leased(cut_after_the_commit)
    assert replayed(leased(book))
    assert bookings() == 1


# A host that vanished in the middle of a transaction


@postgresql
@pytest.mark.parametrize("rooms", ["off"], indirect=True)
@pytest.mark.parametrize("in_a_step", [False, True])
def test_locks_end_with_the_silence_of_whoever_has_them(leased, crew, settings, in_a_step):
    """The business rows of a process that stands still are not locked for as long as it does."""
    settings.IDEMPOTENCY_LOCK_TIMEOUT = 1
    entered, leave = Event(), Event()
    book()

    def fall_silent():
        Booking.objects.update(seats=2)
        entered.set()
        assert leave.wait(PATIENCE)
        Booking.objects.update(seats=2)

    def handler():
        step("one", fall_silent) if in_a_step else fall_silent()
        return HttpResponse()

    first = crew.start(leased, handler, lease=1)
    assert entered.wait(PATIENCE)
    assert crew.start(Booking.objects.update, seats=3).result(PATIENCE) == 1
    assert not first.done()
    leave.set()
    with pytest.raises(exceptions.Unavailable):
        first.result(PATIENCE)
    assert Booking.objects.get().seats == 3


@postgresql
@pytest.mark.parametrize("rooms", ["off"], indirect=True)
def test_ahead_of_its_first_statement_a_handler_may_be_silent(leased, settings):
    """However long the outside world takes to answer."""
    settings.IDEMPOTENCY_LOCK_TIMEOUT = 1

    def call_and_book():
        Event().wait(1.5)
        return book()

    assert leased(call_and_book, lease=1).status_code == 201


@servers
def test_a_remembered_error_is_replayed_without_its_work(leased, bookings):
    policy = {"remember_errors": {402}, "on_error": rendered}
    first = leased(failing(PaymentRequired("card declined")), **policy)
    assert (first.status_code, first.content) == (402, b"card declined")
    again = leased(book, **policy)
    assert (again.status_code, again.content, replayed(again)) == (402, b"card declined", True)
    assert bookings() == 0


@servers
def test_an_error_that_is_not_remembered_is_rendered_and_forgotten(leased, bookings):
    policy = {"remember_errors": {402}, "on_error": rendered}
    counted = Counted()
    assert leased(failing(NotFound()), **policy).status_code == 404
    assert (bookings(), counted["failed.NotFound"]) == (0, 1)
    assert leased(book, **policy).status_code == 201


@servers
def test_an_error_that_cannot_be_rendered_frees_the_key(leased, bookings):
    with pytest.raises(ValueError, match="no"):
        leased(failing(ValueError("no")), remember_errors={402})
    assert leased(book).status_code == 201


# Observe mode, vendors, and tests of users


@servers
def test_observe_runs_everything_and_counts(leased, bookings):
    counted = Counted()
    for body in (None, None, EVE):
        assert not replayed(leased(book, body=body, mode="observe"))
    assert bookings() == 3
    assert counted["observed.executed"] == 1
    assert counted["observed.replayed"] == 1
    assert counted["observed.idempotency_key_reused"] == 1


@servers
def test_observe_runs_beside_a_running_one(leased, crew, bookings):
    counted, handler = Counted(), Handler()
    first = crew.start(leased, handler, mode="observe")
    assert handler.entered.wait(PATIENCE)
    assert leased(book, mode="observe").status_code == 201
    assert counted["observed.idempotency_in_progress"] == 1
    handler.leave.set()
    assert first.result(PATIENCE).status_code == 201
    assert bookings() == 2


@servers
def test_observe_runs_what_it_would_leave_to_an_operator(leased, bookings):
    counted = Counted()
    with pytest.raises(ValueError, match="no"):
        leased(failing(ValueError("no")), mode="observe", **HOLD)
    assert leased(book, mode="observe", **HOLD).status_code == 201
    assert counted["observed.idempotency_outcome_unknown"] == 1
    assert bookings() == 1


@servers
def test_observe_runs_no_handler_twice_whatever_it_raises(leased):
    """A refusal may be the handler's own, of a request that it has sent on."""
    ran = []

    def refuse():
        ran.append(current_attempt())
        raise exceptions.KeyReused

    with pytest.raises(exceptions.KeyReused):
        leased(refuse, mode="observe")
    assert ran == [1]


@pytest.mark.vendors("sqlite")
@pytest.mark.parametrize("execution", ["leased", "job"])
@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_on_sqlite_it_is_refused_before_anything_is_written(ask, bookings, execution, mode):
    with pytest.raises(ImproperlyConfigured, match="'default' is SQLite"):
        ask(book, execution=execution, mode=mode)
    assert (bookings(), IdempotencyRecord.objects.count()) == (0, 0)
    assert ask(book).status_code == 201  # and the key is free


@servers
@pytest.mark.django_db
def test_it_works_in_a_testcase_without_a_heartbeat(leased, rooms, redis_db, bookings):
    """Where nothing ever commits: no other connection could see the claim to renew it."""
    assert connection.in_atomic_block
    threads: list[str] = []

    def look():
        threads.extend(thread.name for thread in threading.enumerate())
        return book()

    first = leased(look)
    assert "idempotency-lease" not in threads
    assert leased(book).content == first.content
    with pytest.raises(ValueError, match="no"):
        leased(failing(ValueError("no")), key="other")
    assert leased(book, key="other").status_code == 201
    assert bookings() == 2
    if rooms == "redis":
        assert not list(redis_db.scan_iter("*:reply"))
