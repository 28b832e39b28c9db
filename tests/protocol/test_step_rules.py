"""Where steps and writes may stand, and what is said of an execution whose steps have changed."""

import contextvars
from functools import partial

import pytest
from django.db import connection, transaction
from django.http import HttpResponse
from rest_framework.exceptions import NotFound

from idempotency import exceptions
from idempotency.jobs import step
from idempotency.models import State
from tests.app.models import Booking
from tests.concurrent import elsewhere
from tests.leased import HOLD, record
from tests.protocol.test_steps import crash_after, done, note, steps

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.vendors("postgresql", "mysql")]
postgresql = pytest.mark.vendors("postgresql")


# Changed code


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (["one", "deux"], "Step 2 is 'deux', and an earlier attempt has done 'two' there"),
        (["two", "one"], "Step 1 is 'two', and an earlier attempt has done 'one' there"),
        (["zero", "one", "two"], "Step 1 is 'zero'"),
        (["two"], "Step 1 is 'two'"),
        (["one"], "left out the step 'two'"),
        ([], "left out the step 'one'"),
    ],
    ids=["renamed", "reordered", "put before", "taken out", "cut off", "all gone"],
)
def test_a_change_of_the_steps_is_reported_and_nothing_done(leased, now, words):
    """The key is not lost: with the steps put back, the execution is resumed."""
    crash_after(leased, "one", "two")
    for _ in range(2):
        with pytest.raises(exceptions.StepChanged, match=words):
            leased(steps(*now))
    assert (done(), record().state) == (["one", "two"], State.ABANDONED)
    assert leased(steps("one", "two", "three")).status_code == 201
    assert done() == ["one", "two", "three"]


def test_a_handler_that_has_given_up_its_steps_writes_nothing(leased):
    crash_after(leased, "one")

    def bookings_without_steps():
        note("unfenced")
        return HttpResponse()

    with pytest.raises(exceptions.StepChanged):
        leased(bookings_without_steps)
    assert done() == ["one"]


def test_under_hold_changed_steps_are_for_an_operator(leased):
    crash_after(leased, "one", error=NotFound, **HOLD)
    with pytest.raises(exceptions.StepChanged):
        leased(steps("eins"), **HOLD)
    with pytest.raises(exceptions.OutcomeUnknown):
        leased(steps("one"), **HOLD)


def test_a_policy_that_knows_no_steps_repeats_none(leased):
    """It became atomic meanwhile: what is done would be done again."""
    crash_after(leased, "one")
    with pytest.raises(exceptions.StepChanged, match="the policy has changed"):
        leased(partial(note, "again"), execution="atomic")
    assert done() == ["one"]
    leased(steps("one", "two"))
    assert done() == ["one", "two"]


@pytest.mark.parametrize("name", ["two-b", "", "x" * 65, "\u00e9"])
def test_a_malformed_name_is_refused(leased, name):
    with pytest.raises(ValueError, match="name has 1 to 64 characters"):
        leased(steps("one", name))
    assert leased(steps("one", "two")).status_code == 201


def test_two_steps_of_one_name_are_refused(leased):
    """Their child keys would be one. On a resumed attempt, too."""
    for _ in range(2):
        with pytest.raises(ValueError, match="two steps 'one'"):
            leased(steps("one", "one"))
    assert done() == ["one"]


# Misplaced


def test_a_hook_ahead_of_the_first_step_is_refused(leased):
    """There is nothing that it could wait for."""

    def handler():
        transaction.on_commit(partial(note, "hook"))
        step("one", note, "one")

    with pytest.raises(exceptions.StepMisplaced, match="registered before the first step, 'one'"):
        leased(handler)
    assert done() == []


def in_a_step():
    return step("one", lambda: step("two", note, "two"))


def in_a_block():
    with transaction.atomic():
        return step("one", note, "one")


def in_a_block_after_a_step():
    step("one", note, "one")
    with transaction.atomic():
        return step("two", note, "two")


def in_another_thread():
    """Its connection is another, on which no transaction and no fence is ours."""
    elsewhere(contextvars.copy_context().run, step, "two", note, "two")


def in_another_thread_after_a_step():
    step("one", note, "one")
    in_another_thread()


def in_the_hook_of_a_step():
    step("one", lambda: transaction.on_commit(partial(step, "two", note, "two")))


def in_the_hook_of_the_end():
    transaction.on_commit(partial(step, "one", note, "one"))
    return HttpResponse()


@pytest.mark.parametrize("handler", [in_the_hook_of_a_step, in_the_hook_of_the_end])
def test_a_step_in_a_hook_is_refused(leased, handler):
    """What the hook belongs to has committed by then."""
    with pytest.raises(exceptions.StepMisplaced, match="in a hook that runs after a commit"):
        leased(handler)
    assert done() == []
    assert not connection.in_atomic_block


@pytest.mark.parametrize(
    ("handler", "words", "stands"),
    [
        (in_a_step, "'two' stands inside another step", []),
        (in_a_block, "'one' stands inside an atomic block", []),
        (in_a_block_after_a_step, "'two' stands inside an atomic block", ["one"]),
        (in_another_thread, "'two' runs in another thread", []),
        (in_another_thread_after_a_step, "'two' runs in another thread", ["one"]),
    ],
)
def test_a_step_that_could_not_commit_by_itself_is_refused(leased, handler, words, stands):
    with pytest.raises(exceptions.StepMisplaced, match=words):
        leased(handler)
    assert done() == stands
    assert not connection.in_atomic_block
    leased(steps(*stands, "last"))
    assert done() == [*stands, "last"]


def write():
    Booking.objects.create(name="outside")


def write_raw(sql):
    def run():
        with connection.cursor() as cursor:
            cursor.execute(sql)

    return run


def write_composed(statement):
    """As psycopg's users put statements together."""

    def run():
        from psycopg import sql  # noqa: PLC0415 - of one vendor

        write_raw(sql.SQL("{}").format(sql.SQL(statement)))()

    return run


def write_in_a_block():
    with transaction.atomic():
        write()


INSERT = "INSERT INTO testapp_booking (name, seats) VALUES ('outside', 1)"

WRITES = {
    "insert": write,
    "in a block": write_in_a_block,
    "update": lambda: Booking.objects.update(seats=2),
    "raw": write_raw(f" /* a\n */ -- b\n {INSERT}"),
    "with": pytest.param(
        write_raw(f"WITH one AS ({INSERT} RETURNING 1) SELECT * FROM one"), marks=postgresql
    ),
    "bytes": pytest.param(write_raw(INSERT.encode()), marks=postgresql),
    "composed": pytest.param(write_composed(INSERT), marks=postgresql),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("place", ["first", "between", "last"])
def test_a_write_outside_the_steps_is_refused_and_undone(leased, write, place):
    """It could be neither undone nor resumed. The key is not lost by it."""

    def handler():
        for here in ("first", "between", "last"):
            if here == place:
                write()
            if here != "last":
                step(here, note, here)
        return HttpResponse()

    words = "before the first step, 'first'" if place == "first" else "outside the steps"
    with pytest.raises(exceptions.StepMisplaced, match=words):
        leased(handler)
    stand = ["first", "between"][: ["first", "between", "last"].index(place)]
    assert done() == stand
    leased(steps("first", "between"))
    assert done() == ["first", "between"]


def read_under_a_lock():
    with transaction.atomic():
        list(Booking.objects.select_for_update())


READS = {
    "rows": lambda: list(Booking.objects.filter(seats=1)),
    "count": Booking.objects.count,
    "union": lambda: list(Booking.objects.filter(pk=1).union(Booking.objects.filter(pk=2))),
    "locks": read_under_a_lock,
    "iterator": lambda: list(Booking.objects.iterator(chunk_size=1)),
    "explain": lambda: Booking.objects.all().explain(),
    "raw": write_raw(" /* a */ /* b */ -- c\n select 1"),
    "with": write_raw("WITH one AS (SELECT 1) SELECT * FROM one"),
    "bytes": pytest.param(write_raw(b"SELECT 1"), marks=postgresql),
    "composed": pytest.param(write_composed("SELECT 1"), marks=postgresql),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reads_are_allowed_everywhere(leased, read):
    def handler():
        for name in ("one", "two"):
            read()
            step(name, note, name)
        read()
        return HttpResponse(status=201)

    assert leased(handler).status_code == 201
    assert done() == ["one", "two"]


def test_without_a_step_it_is_one_transaction_that_may_write(leased):
    leased(lambda: HttpResponse(str(note("one"))))
    assert done() == ["one"]


def test_there_are_no_steps_in_an_atomic_execution(ask):
    def handler():
        note("undone")
        step("one", note, "one")

    with pytest.raises(exceptions.StepMisplaced, match="'one' stands in an atomic execution"):
        ask(handler)
    with pytest.raises(LookupError):
        step("one", note, "one")
    assert done() == []
