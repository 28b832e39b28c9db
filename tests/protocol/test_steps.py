"""Durable steps: each commits by itself, and none is done twice, wherever an attempt ends."""

import json
from contextlib import suppress
from functools import partial
from threading import Event
from uuid import uuid4

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F
from django.http import HttpResponse
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rest_framework.exceptions import NotFound

from idempotency import exceptions
from idempotency.jobs import current_attempt, step
from idempotency.keys import child_key, current_key, derive_child_key
from idempotency.models import IdempotencyRecord, State, Step
from tests.app.models import Booking, Ticket
from tests.concurrent import PATIENCE, Crew, elsewhere, until
from tests.leased import EVE, HOLD, PaymentRequired, Stopped, expire, record, rendered, sweep
from tests.protocol.test_atomic import Counted

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.vendors("postgresql", "mysql")]
everywhere = pytest.mark.usefixtures("rooms")
postgresql = pytest.mark.vendors("postgresql")


@pytest.fixture
def crew():
    with Crew() as crew:
        yield crew


def done():
    """The names of the effects, in their order."""
    return list(Booking.objects.order_by("pk").values_list("name", flat=True))


def note(name, error=None):
    """A step's function: one effect, one result."""
    booking = Booking.objects.create(name=name)
    if error is not None:
        raise error
    return booking.pk


def steps(*wanted, error=None, status=201):
    """A handler of these steps, which then fails, or replies with their results."""

    def handler():
        results = [step(name, note, name) for name in wanted]
        if error is not None:
            raise error
        return HttpResponse(json.dumps(results), status=status)

    return handler


def crash_after(leased, *wanted, error=ValueError, **policy):
    """An attempt that has done these steps and then failed."""
    with pytest.raises(error):
        leased(steps(*wanted, error=error()), **policy)


# Commit and resume


@everywhere
def test_each_step_commits_by_itself(leased, bookings):
    seen = []

    def handler():
        for name in ("one", "two"):
            step(name, note, name)
            seen.append((elsewhere(bookings), elsewhere(Step.objects.count)))
        return HttpResponse()

    leased(handler)
    assert seen == [(1, 1), (2, 2)]
    assert list(Step.objects.order_by("position").values_list("position", "name", "attempt")) == [
        (0, "one", 1),
        (1, "two", 1),
    ]


@everywhere
@pytest.mark.parametrize("error", [ValueError, NotFound, Stopped])
def test_a_crashed_attempt_is_resumed_after_its_last_finished_step(leased, error):
    counted = Counted()
    crash_after(leased, "one", "two", error=error)
    assert (done(), record().state) == (["one", "two"], State.ABANDONED)
    first = leased(steps("one", "two", "three"))
    assert done() == ["one", "two", "three"]
    assert json.loads(first.content) == list(
        Booking.objects.order_by("pk").values_list("pk", flat=True)
    )
    assert (counted["step_done"], counted["step_skipped"]) == (3, 2)
    again = leased(steps())
    assert (again.content, again["Idempotent-Replayed"]) == (first.content, "true")


def test_a_step_that_fails_is_undone_and_run_again(leased):
    def handler(error=None):
        step("one", note, "one")
        step("two", note, "two", error)
        return HttpResponse()

    with pytest.raises(ValueError, match="no"):
        leased(lambda: handler(ValueError("no")))
    assert done() == ["one"]
    leased(handler)
    assert done() == ["one", "two"]


@everywhere
@pytest.mark.parametrize("status", [500, 503])
def test_a_returned_server_error_leaves_the_rest_to_a_retry(leased, status):
    assert leased(steps("one", status=status)).status_code == status
    assert leased(steps("one", "two")).status_code == 201
    assert done() == ["one", "two"]


@everywhere
def test_another_request_resumes_nothing(leased):
    """The steps that are done are this payload's; with none done, the key is anybody's."""
    crash_after(leased)
    crash_after(leased, "one", body=EVE)
    with pytest.raises(exceptions.KeyReused):
        leased(steps("one"))
    assert leased(steps("one", "two"), body=EVE).status_code == 201
    assert done() == ["one", "two"]


def test_a_remembered_error_stands_and_so_do_the_steps(leased):
    policy = {"remember_errors": {402}, "on_error": rendered}
    for _ in range(2):
        reply = leased(steps("one", error=PaymentRequired("declined")), **policy)
        assert (reply.status_code, reply.content) == (402, b"declined")
    assert done() == ["one"]


def test_hold_resumes_what_was_refused_and_keeps_what_is_unknown(leased):
    crash_after(leased, "one", error=NotFound, **HOLD)
    crash_after(leased, "one", "two", error=TimeoutError, **HOLD)
    with pytest.raises(exceptions.OutcomeUnknown):
        leased(steps("one", "two"), **HOLD)
    assert done() == ["one", "two"]


@postgresql
def test_a_step_whose_commit_is_refused_is_not_done(leased):
    def handler(booking_id):
        step("one", note, "one")
        step("two", lambda: Ticket.objects.create(booking_id=booking_id).pk)
        return HttpResponse()

    with pytest.raises(IntegrityError):
        leased(lambda: handler(10**9))
    leased(lambda: handler(Booking.objects.get().pk))
    assert (done(), Ticket.objects.count()) == (["one"], 1)


def marked():
    note("undone")
    transaction.set_rollback(True)


def swallowed():
    note("undone")
    with pytest.raises(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT 1/0")


@pytest.mark.parametrize("function", [marked, pytest.param(swallowed, marks=postgresql)])
def test_a_step_that_broke_its_transaction_is_an_error_and_not_done(leased, function):
    with pytest.raises(DatabaseError):
        leased(lambda: step("one", function))
    assert (done(), Step.objects.count()) == ([], 0)
    leased(steps("one"))
    assert done() == ["one"]


def test_hooks_run_when_their_step_has_committed(leased):
    """A hook that raises ends the attempt; the step stands."""
    seen = []

    def hooked():
        transaction.on_commit(lambda: seen.append(elsewhere(Step.objects.count)))
        transaction.on_commit(lambda: Booking.objects.create(name="hook"))
        transaction.on_commit(lambda: 1 / 0)
        return note("one")

    with pytest.raises(ZeroDivisionError):
        leased(lambda: step("one", hooked))
    leased(steps("one", "two"))
    assert (seen, done()) == ([1], ["one", "hook", "two"])


def test_a_hook_whose_error_is_caught_does_not_repeat_its_step(leased):
    def hooked():
        transaction.on_commit(lambda: 1 / 0)
        return note("one")

    def handler():
        with suppress(ZeroDivisionError):
            step("one", hooked)
        return HttpResponse(str(step("two", note, "two")))

    assert leased(handler).status_code == 200
    assert list(Step.objects.order_by("position").values_list("name", flat=True)) == ["one", "two"]
    assert done() == ["one", "two"]


# Any steps, any crashes

#: Where an attempt ends: ahead of a step, within it, or at once after its commit.
PLACES = ("before", "in", "committed")
#: How: the last one says nothing, as a process that was killed.
ERRORS = {"fails": ValueError, "is told to go": Stopped, "is killed": Stopped}

crashes = st.tuples(st.integers(0, 6), st.sampled_from(PLACES), st.sampled_from(sorted(ERRORS)))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(st.integers(), max_size=6), crashes=st.lists(crashes, max_size=5))
@example(values=[1, 2], crashes=[(0, "in", "is killed"), (1, "committed", "is killed")])
def test_each_effect_is_there_once_and_the_result_the_same_whatever_crashes(
    leased, values, crashes
):
    Booking.objects.all().delete()
    key = uuid4().hex

    def handler(number=-1, place="", error=None):
        def crash(here, at):
            if (here, at) == (number, place):
                raise error

        def add(index, value, total):
            Booking.objects.create(name=f"{index}")
            crash(index, "in")
            transaction.on_commit(lambda: crash(index, "committed"))
            return total + value

        total = 0
        for index, value in enumerate(values):
            crash(index, "before")
            total = step(f"add.{index}", add, index, value, total)
        crash(len(values), "before")
        return HttpResponse(f"{total}")

    for number, place, how in crashes:
        with suppress(ValueError, Stopped):
            leased(partial(handler, number, place, ERRORS[how]()), key=key)
        if how == "is killed":
            _die_without_a_word(key)
    assert leased(handler, key=key).content == b"%d" % sum(values)
    assert done() == [f"{index}" for index in range(len(values))]


def _die_without_a_word(key):
    """Have the record as it is where nobody came to give the claim back."""
    left = IdempotencyRecord.objects.filter(key=key, state__in=(State.RELEASED, State.ABANDONED))
    left.update(state=State.RUNNING, purge_at=None)
    expire()


# Results


@pytest.mark.parametrize(
    ("result", "given"),
    [
        (None, None),
        (0.1, 0.1),
        ("\u00e9\x00\U0001f600", "\u00e9\x00\U0001f600"),
        ((1, [2, (True,)]), [1, [2, [True]]]),
        ({"a": {"b": None}}, {"a": {"b": None}}),
    ],
)
def test_a_result_is_given_as_it_comes_back_from_json(leased, result, given):
    """The first time already, so that a resumed attempt sees the same."""
    seen = []

    def handler(error=None):
        seen.append(step("one", lambda: result))
        if error:
            raise error
        return HttpResponse()

    with pytest.raises(ValueError, match="no"):
        leased(lambda: handler(ValueError("no")))
    leased(handler)
    assert seen == [given, given]
    assert [type(each) for each in seen] == [type(given)] * 2


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (object(), TypeError, "The result of the step 'one' must be JSON"),
        ({1: "a"}, TypeError, "the key 1 is no string"),
        (float("nan"), TypeError, "must be JSON"),
        ("\ud800", TypeError, "must be JSON"),
        ("x" * 99, ValueError, r"has 101 bytes as JSON, more than IDEMPOTENCY_MAX_BODY \(100\)"),
    ],
    ids=["object", "key", "nan", "surrogate", "large"],
)
def test_a_result_that_cannot_be_kept_undoes_its_step(leased, settings, result, error, words):
    settings.IDEMPOTENCY_MAX_BODY = 100

    def unkept():
        note("one")
        return result

    with pytest.raises(error, match=words):
        leased(lambda: step("one", unkept))
    assert (done(), Step.objects.count()) == ([], 0)
    leased(steps("one"))
    assert done() == ["one"]


# What a step knows


@pytest.mark.parametrize("parent", ["parent", "p" * 255])
def test_a_step_has_a_key_of_its_own_and_the_same_in_each_attempt(leased, parent):
    seen = []

    def look(name):
        seen.append((current_key(), child_key("billing"), current_attempt()))
        return note(name)

    def handler(error=None):
        step("one", look, "one")
        assert current_key() == parent
        step("two", look, "two")
        raise error or ValueError

    for _ in range(2):
        with pytest.raises(ValueError):  # noqa: PT011 - of the handler
            leased(handler, key=parent)
        Step.objects.filter(name="two").delete()
    keys = [derive_child_key(parent, name) for name in ("one", "two", "two")]
    assert seen == [
        (key, derive_child_key(key, "billing"), attempt)
        for key, attempt in zip(keys, (1, 1, 3), strict=True)
    ]
    assert parent != "parent" or keys[0] == "parent-one"


def test_arguments_are_handed_on(leased):
    reply = leased(lambda: HttpResponse(step("one", "{}-{word}".format, 1, word="two")))
    assert reply.content == b"1-two"


# A lost lease


class Pause:
    """Where an attempt is suspended until the test lets it go on."""

    def __init__(self):
        self.reached, self.over = Event(), Event()

    def __call__(self):
        self.reached.set()
        assert self.over.wait(PATIENCE)


@pytest.fixture
def pause():
    pause = Pause()
    yield pause
    pause.over.set()


@everywhere
@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("place", ["between", "in"])
def test_a_zombie_does_no_further_step(leased, crew, pause, place, swept):
    """It is suspended past its lease, the retry does what is left, then it goes on."""

    def suspended_note(name):
        note(name)
        pause()

    def handler():
        step("one", note, "one")
        if place == "between":
            pause()
            step("two", note, "two")
        else:
            step("two", suspended_note, "two")
        return HttpResponse("zombie")

    first = crew.start(leased, handler)
    assert pause.reached.wait(PATIENCE)
    expire()
    if swept:
        assert sweep().abandoned == 1
    second = leased(steps("one", "two"))
    pause.over.set()
    with pytest.raises(exceptions.Unavailable):
        first.result(PATIENCE)
    assert done() == ["one", "two"]
    assert set(Step.objects.values_list("name", "attempt")) == {("one", 1), ("two", 2 + swept)}
    assert leased(steps()).content == second.content


def test_the_fence_alone_stops_a_step(leased):
    """Nobody has told the attempt; the renewal within the step's transaction does."""

    def stolen():
        elsewhere(IdempotencyRecord.objects.update, attempt=F("attempt") + 1)
        return note("undone")

    with pytest.raises(exceptions.Unavailable) as refused:
        leased(lambda: step("one", stolen))
    assert isinstance(refused.value.__cause__, exceptions.LeaseLost)
    assert (done(), Step.objects.count()) == ([], 0)


def test_a_step_renews_the_lease(leased):
    expired = []

    def handler():
        elsewhere(expire)
        step("one", note, "one")
        expired.append(sweep().abandoned)
        return HttpResponse()

    leased(handler)
    assert expired == [0]


def test_a_step_after_a_loss_that_is_known_is_not_even_begun(leased):
    """The heartbeat has seen it; the outside world hears nothing more from this attempt."""
    begun: list[str] = []

    def handler():
        elsewhere(IdempotencyRecord.objects.update, attempt=F("attempt") + 1)
        with pytest.raises(exceptions.LeaseLost):
            until(lambda: not current_attempt())
        step("one", begun.append, "one")

    with pytest.raises(exceptions.Unavailable):
        leased(handler, lease=1)
    assert begun == []


@everywhere
def test_a_reply_after_steps_is_fenced_by_itself(leased, bookings):
    def handler():
        step("one", note, "one")
        elsewhere(IdempotencyRecord.objects.update, attempt=F("attempt") + 1)
        return HttpResponse("lost")

    with pytest.raises(exceptions.Unavailable):
        leased(handler)
    assert (record().state, record().status) == (State.RUNNING, None)
    expire()
    assert leased(steps("one")).status_code == 201
    assert bookings() == 1


# Elsewhere


def test_observe_runs_every_step_each_time(leased):
    for _ in range(2):
        leased(steps("one", "two"), mode="observe")
    assert done() == ["one", "two"] * 2


@pytest.mark.django_db
def test_steps_work_in_a_testcase(leased):
    """Each within a savepoint, since nothing ever commits there."""
    assert connection.in_atomic_block
    crash_after(leased, "one")
    with pytest.raises(exceptions.StepMisplaced):
        leased(lambda: (step("one", note, "one"), step("two", step, "three", note, "three")))
    first = leased(steps("one", "two"))
    assert done() == ["one", "two"]
    assert leased(steps()).content == first.content
