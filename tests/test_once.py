"""`once` in one process: on functions, and on Celery tasks that are called."""

import subprocess
import sys
import uuid
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from celery import Celery, current_app, shared_task
from celery.exceptions import Ignore, Reject, Retry
from django.core.cache import caches
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.test import RequestFactory, TestCase
from django.utils import timezone

from idempotency import events, exceptions
from idempotency.decorators import once
from idempotency.keys import child_key, current_key
from idempotency.models import IdempotencyRecord
from idempotency.operation import operation_of
from idempotency.policy import Policy
from tests.app.models import Booking, Ticket
from tests.concurrent import PATIENCE, Crew, elsewhere

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _empty_cache(redis_db):
    """Keys are the same in every test, and so would be the cached results."""


@pytest.fixture
def bookings():
    """How many effects there are."""
    return Booking.objects.count


@pytest.fixture
def name():
    """A key that no other test has used: MariaDB locks the gap beside one that was deleted."""
    return uuid.uuid4().hex


def booker(key="name", **options):
    """A consumer with one effect; its result tells two executions apart."""

    @once(operation="booked", key=key, **options)
    def book(name, *, seats=1):
        booking = Booking.objects.create(name=name, seats=seats)
        return {"id": booking.pk, "seats": [seats]}

    return book


# The first delivery and its duplicates.


def test_a_duplicate_gets_the_result_and_runs_nothing(name, bookings):
    book = booker()
    first = book(name)
    assert [book(name) for _ in range(3)] == [first] * 3
    assert first == {"id": Booking.objects.get().pk, "seats": [1]}
    record = IdempotencyRecord.objects.get()
    assert (record.scope, record.key, record.operation) == ("+once/booked", name, "booked")


def test_the_ledger_remembers_what_the_cache_has_lost(name, bookings):
    book = booker()
    first = book(name)
    caches["default"].clear()
    assert book(name) == first
    assert bookings() == 1


def test_without_a_cache_the_ledger_alone_decides(name, bookings, settings):
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    book = booker()
    assert book(name) == book(name)
    assert bookings() == 1


def test_other_keys_and_operations_run_themselves(name, bookings):
    book, cancel = booker(), once(operation="cancelled", key="name")(lambda name: "cancelled")
    assert book(name) != book(f"{name}-2")
    assert cancel(name) == "cancelled"
    assert bookings() == 2


def test_only_the_key_says_whether_two_deliveries_are_one_event(name, bookings, settings):
    """Redeliveries come with other metadata, and secrets rotate in between."""
    book = booker()
    first = book(name, seats=1)
    settings.SECRET_KEY = "another"
    caches["default"].clear()
    assert book(name, seats=2) == first
    assert bookings() == 1


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, None),
        ((1, 2.5), [1, 2.5]),
        ({"é": ()}, {"é": []}),
        (10**30, 10**30),
    ],
)
def test_the_first_delivery_returns_what_its_duplicates_will(name, result, said):
    give = once(operation="given", key="name")(lambda name: result)
    assert (give(name), give(name)) == (said, said)


@pytest.mark.parametrize(
    "result",
    [{1, 2}, float("nan"), [float("inf")], object(), b"x", timezone.now(), {1: 2}],
)
def test_a_result_that_is_not_json_undoes_everything(name, bookings, result):
    @once(operation="given", key="name")
    def give(name):
        Booking.objects.create(name=name)
        return result

    with pytest.raises(TypeError, match=r"'given'.* must be JSON"):
        give(name)
    assert bookings() == IdempotencyRecord.objects.count() == 0


def test_a_result_that_no_duplicate_could_have_undoes_everything(name, bookings, settings):
    settings.IDEMPOTENCY_MAX_BODY = 20
    give = once(operation="booked", key="name")(lambda name: "x" * 18)
    assert give(f"{name}-2") == give(f"{name}-2") == "x" * 18
    with pytest.raises(ValueError, match=r"'booked'.* more than IDEMPOTENCY_MAX_BODY"):
        booker()(name, seats=10**9)
    assert bookings() == IdempotencyRecord.objects.filter(key=name).count() == 0


def test_the_function_knows_its_key_and_derives_its_childrens(name):
    look = once(operation="looked", key="name")(lambda name: [current_key(), child_key("billing")])
    assert look(name) == [name, f"{name}-billing"]


def test_no_request_shares_a_key_with_an_event(name, bookings):
    """Not even of a caller that is named like the events' scope."""
    result = booker()(name)
    request = RequestFactory().post("/")
    request.META["HTTP_IDEMPOTENCY_SCOPE"] = "once"
    for caller in ("", "+once", "once", "%2Bonce"):
        asked = operation_of(
            request,
            name,
            name="booked",
            caller=caller,
            body={},
            terms=Policy().resolve(),
            using="default",
        )
        assert asked.identity.scope != IdempotencyRecord.objects.get(key=name).scope
    assert booker()(name) == result


def test_observing_runs_every_delivery_and_counts(name, bookings):
    book, before = booker(policy=Policy(mode="observe")), events.counts()
    assert book(name) != book(name)
    counted = events.counts()
    assert counted["observed.replayed"] - before.get("observed.replayed", 0) == 1
    assert bookings() == 2


# What frees the key.


@pytest.mark.parametrize("error", [ValueError("no"), Retry("later"), Ignore(), Reject("no")])
def test_an_exception_undoes_everything_and_frees_the_key(name, bookings, error):
    errors = [error]

    @once(operation="booked", key="name")
    def book(name):
        booking = Booking.objects.create(name=name)
        if errors:
            raise errors.pop()
        return booking.pk

    with pytest.raises(type(error)) as raised:
        book(name)
    assert raised.value is error
    assert bookings() == IdempotencyRecord.objects.count() == 0
    assert book(name) == Booking.objects.get().pk


def test_a_marked_transaction_is_no_success_whose_message_could_be_dropped(name, bookings):
    @once(operation="booked", key="name")
    def mark(name):
        Booking.objects.create(name=name)
        transaction.set_rollback(True)

    with pytest.raises(TransactionManagementError, match=r"'booked'.*marked"):
        mark(name)
    assert bookings() == 0
    booker()(name)
    assert bookings() == 1


@pytest.mark.vendors("postgresql")
def test_a_swallowed_database_error_is_no_success_either(name, bookings):
    @once(operation="booked", key="name")
    def swallow(name):
        with pytest.raises(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT 1/0")

    with pytest.raises(TransactionManagementError, match="swallowed"):
        swallow(name)
    assert not IdempotencyRecord.objects.exists()


@pytest.mark.vendors("postgresql", "sqlite")
def test_a_commit_that_is_refused_frees_the_key(name, bookings):
    @once(operation="booked", key="name")
    def dangle(name):
        Ticket.objects.create(booking_id=10**9)

    with pytest.raises(IntegrityError):
        dangle(name)
    booker()(name)
    assert bookings() == 1


def test_a_refusal_of_something_that_it_called_says_nothing_of_the_event(name, bookings):
    @once(operation="booked", key="name")
    def call(name):
        Booking.objects.create(name=name)
        raise exceptions.KeyExpired

    with pytest.raises(exceptions.KeyExpired):
        call(name)
    assert bookings() == IdempotencyRecord.objects.count() == 0


# Where the event cannot be settled now.


@pytest.mark.vendors("postgresql", "mysql")
def test_a_delivery_waits_for_the_one_in_progress(name, bookings):
    entered, leave = Event(), Event()

    @once(operation="booked", key="name")
    def book(name):
        entered.set()
        assert leave.wait(PATIENCE)
        return Booking.objects.create(name=name).pk

    with Crew() as crew:
        first = crew.start(book, name)
        assert entered.wait(PATIENCE)
        second = crew.start(book, name)
        with pytest.raises(exceptions.InProgress):
            booker(policy=Policy(in_flight="reject"))(name)
        with pytest.raises(exceptions.InProgress):
            booker(policy=Policy(wait_timeout=0.2))(name)
        leave.set()
        assert first.result(PATIENCE) == second.result(PATIENCE)
    assert bookings() == 1


@pytest.mark.vendors("postgresql", "mysql")
def test_a_consumer_outlives_the_connection_that_broke_between_two_messages(name, bookings):
    """No request begins here, so nobody else would replace it."""
    book = booker()
    book(name)
    own = {"postgresql": "SELECT pg_backend_pid()"}.get(connection.vendor, "SELECT CONNECTION_ID()")
    with connection.cursor() as cursor:
        cursor.execute(own)
        (mine,) = cursor.fetchone()
    elsewhere(cut, mine)
    with pytest.raises(exceptions.Unavailable):
        book(f"{name}-2")
    book(f"{name}-2")
    assert bookings() == 2


def cut(backend):
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        else:
            cursor.execute(f"KILL CONNECTION {backend:d}")


def age(**shifts):
    """Move a record's times, as if they had passed."""
    now = timezone.now()
    IdempotencyRecord.objects.update(**{name: now + shift for name, shift in shifts.items()})
    caches["default"].clear()


def test_a_late_redelivery_is_refused_until_its_tombstone_is_gone(name, bookings):
    book = booker(policy=Policy(ttl=60, tombstone=60))
    book(name)
    age(expires_at=-timedelta(seconds=1))
    with pytest.raises(exceptions.KeyExpired):
        book(name)
    assert bookings() == 1
    age(purge_at=-timedelta(seconds=1))
    book(name)
    assert bookings() == 2


# Transactions.


def test_inside_an_open_transaction_it_is_refused_and_says_so(name, bookings):
    book = booker()
    for _ in range(2):  # the second time, there is a result that could be given
        with (
            transaction.atomic(),
            pytest.raises(TransactionManagementError, match=r"'booked'.*open transaction"),
        ):
            book(name)
        book(name)
    assert bookings() == 1


def test_one_event_is_not_consumed_inside_another(name, bookings):
    outer = once(operation="outer", key="name")(booker())
    with pytest.raises(TransactionManagementError, match=r"'booked'"):
        outer(name)
    assert bookings() == 0


def test_a_hook_after_the_commit_may_consume(name, bookings):
    with transaction.atomic():
        transaction.on_commit(lambda: booker()(name))
    assert bookings() == 1


class InATestCase(TestCase):
    def test_it_works_and_publishes_nothing(self):
        book = booker()
        first = book("in-a-test-case")
        assert book("in-a-test-case") == first
        assert Booking.objects.count() == 1

    def test_nothing_is_left_of_another_test(self):
        self.test_it_works_and_publishes_nothing()

    def test_an_open_transaction_of_ones_own_is_refused(self):
        with transaction.atomic(), pytest.raises(TransactionManagementError):
            booker()("in-a-test-case")


# Keys.


def test_a_key_may_be_any_parameter_and_its_default(name, bookings):
    @once(operation="defaulted", key="headers.0.id")
    def consume(body=None, headers=({"id": name},)):
        return body

    assert consume(1) == consume(body=2) == consume(headers=[{"id": name}]) == 1
    assert consume(4, [{"id": f"{name}-2"}]) == 4


def test_a_key_function_is_called_as_the_decorated_one(name, bookings):
    book = booker(key=lambda name, *, seats=1: f"{name}.{seats}")
    assert book(name) == book(name=name, seats=1) != book(name, seats=2)


def test_a_method_has_itself_as_its_first_argument(name):
    class Consumer:
        @once(operation="methods", key="self.prefix")
        def by_path(self, body):
            return body

        @once(operation="methods", key=lambda self, body: f"{self.prefix}-{body}")
        def by_function(self, body):
            return body

        prefix = name

    assert (Consumer().by_path(1), Consumer().by_path(2)) == (1, 1)
    assert (Consumer().by_function(1), Consumer().by_function(2)) == (1, 2)


@pytest.mark.parametrize("key", [None, "", "é", b"bytes", "x" * 256])
def test_without_a_usable_key_nothing_is_done(key, bookings):
    by_path = booker(key="name")
    by_function = booker(key=lambda name: name)
    for book in (by_path, by_function):
        with pytest.raises(ValueError, match="'booked'"):
            book(key)
    assert bookings() == IdempotencyRecord.objects.count() == 0


def test_a_key_of_another_format_than_the_policys_is_refused(bookings):
    book = booker(policy=Policy(key_format="uuid"))
    with pytest.raises(ValueError, match=r"'booked'.*key_format"):
        book("no-uuid")
    book(str(uuid.uuid4()))
    assert bookings() == 1


def test_arguments_that_do_not_fit_are_pythons_own_error():
    with pytest.raises(TypeError, match="missing a required argument: 'name'"):
        booker()(seats=1)


# Decorating.


async def consume_async(event_id): ...


@pytest.mark.parametrize(
    ("options", "function", "error", "says"),
    [
        ({"operation": "a/b"}, len, ValueError, "no slash"),
        ({"policy": "strict"}, len, TypeError, "takes a Policy"),
        ({"policy": Policy(execution="leased")}, len, ValueError, "execution='atomic'"),
        ({"policy": Policy(execution="job")}, len, ValueError, "execution='atomic'"),
        ({}, consume_async, TypeError, "synchronous"),
        ({}, "consume", TypeError, "synchronous"),
        ({"key": "id"}, lambda event_id: 0, ValueError, "'id'.*: event_id"),
        ({"key": ""}, lambda event_id: 0, ValueError, "no dotted path"),
        ({"key": "event_id."}, lambda event_id: 0, ValueError, "no dotted path"),
        ({"key": "event..id"}, lambda event: 0, ValueError, "no dotted path"),
        ({"key": 7}, lambda event: 0, TypeError, "path or callable"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_decorated(options, function, error, says):
    with pytest.raises(error, match=says):
        once(**{"operation": "received", "key": "event_id"} | options)(function)


def test_a_decorated_function_is_still_itself():
    def book(name: str, *, seats: int = 1) -> int:
        """Books."""

    decorated: Any = once(operation="booked", key="name")(book)
    assert (decorated.__name__, decorated.__doc__) == ("book", "Books.")
    assert decorated.__wrapped__ is book


WITHOUT_CELERY = """
import sys
sys.modules["celery"] = None

import django
from django.conf import settings
settings.configure(
    SECRET_KEY="any",
    INSTALLED_APPS=["idempotency"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CACHES={"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}},
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command
from django.db.models import F
from idempotency.decorators import once
from idempotency.exceptions import KeyExpired
from idempotency.models import IdempotencyRecord
call_command("migrate", verbosity=0)

consume = once(operation="any", key="event_id")(lambda event_id: 7)
assert consume("one") == consume("one") == 7
IdempotencyRecord.objects.update(expires_at=F("created_at"))
try:
    consume("one")
except KeyExpired:
    print("refused")
"""


def test_functions_are_consumers_without_celery():
    command = [sys.executable, "-c", WITHOUT_CELERY]
    assert subprocess.check_output(command, text=True) == "refused\n"


# Celery tasks that are called rather than delivered.


@shared_task(bind=True)
@once(operation="tasks.bound", key="event.id")
def bound_task(self, event):
    return [self.name.rpartition(".")[2], Booking.objects.create(name=event["id"]).pk]


@once(operation="tasks.above", key=lambda event: event["id"])
@shared_task(bind=True)
def task_above(self, event):
    return [self.name.rpartition(".")[2], Booking.objects.create(name=event["id"]).pk]


@once(operation="tasks.retrying", key="event.id")
@shared_task(autoretry_for=(LookupError,))
def retrying_task(event):
    return [event["name"], Booking.objects.create(name=event["id"]).pk]


@pytest.mark.parametrize("task", [bound_task, task_above, retrying_task])
def test_a_task_is_protected_however_it_is_called(task, name, bookings):
    event = {"id": name, "name": task.name.rpartition(".")[2]}
    first = task(event)
    assert first == [event["name"], Booking.objects.get().pk]
    assert task.apply(args=[event]).get() == first
    assert task.apply(kwargs={"event": event}).get() == first
    assert bookings() == 1


def test_a_task_keeps_its_name_and_celerys_check_of_its_arguments():
    """What does not fit is refused when it is sent, not when it is delivered."""
    with Celery("checking", broker="memory://", set_as_current=False) as app:
        for name in ("bound_task", "task_above", "retrying_task"):
            with pytest.raises(TypeError, match="unexpected keyword argument"):
                app.tasks[f"{__name__}.{name}"].apply_async(kwargs={"evnt": {}})


@pytest.mark.parametrize("path", ["bound_task", "task_above", "retrying_task"])
def test_other_celery_apps_run_the_same_protected_task(path, name, bookings):
    """Each app makes a task of its own from a shared function, when it is first used."""
    event = {"id": name, "name": path}
    first = current_app.tasks[f"{__name__}.{path}"](event)
    with Celery("other", set_as_current=False) as other:
        copy = other.tasks[f"{__name__}.{path}"]
        assert copy is not current_app.tasks[copy.name]
        assert copy(event) == first
    assert bookings() == 1


def test_celery_apps_that_are_ready_run_a_protected_task_too(name, bookings):
    with Celery("ready", set_as_current=False) as ready:
        ready.finalize()

        @once(operation="tasks.late", key="event_id")
        @shared_task(name="tests.late")
        def late(event_id):
            return Booking.objects.create(name=event_id).pk

        assert late(name) == ready.tasks["tests.late"](name) == Booking.objects.get().pk


def test_a_task_of_one_app_is_protected_before_the_app_is_ready(name, bookings):
    with Celery("own", set_as_current=False) as app:

        @once(operation="tasks.own", key="event_id")
        @app.task(name="tests.own")
        def own(event_id):
            return Booking.objects.create(name=event_id).pk

        first = own(name)
        app.finalize()
        assert own(name) == app.tasks["tests.own"](name) == first
    assert bookings() == 1


@pytest.mark.vendors("postgresql", "mysql")
@pytest.mark.parametrize(
    "call", [bound_task, lambda event: bound_task.apply(args=[event], throw=True)]
)
def test_a_task_that_is_called_tells_its_caller(call, name, settings):
    """There is no message that could come again."""
    settings.IDEMPOTENCY_MAX_WAITERS = 0
    entered, leave = Event(), Event()

    @once(operation="tasks.bound", key="name")
    def hold(name):
        entered.set()
        assert leave.wait(PATIENCE)

    with Crew() as crew:
        first = crew.start(hold, name)
        assert entered.wait(PATIENCE)
        with pytest.raises(exceptions.InProgress):
            call({"id": name})
        leave.set()
        first.result(PATIENCE)


def test_decorating_an_async_task_is_refused():
    with Celery("async", set_as_current=False) as app:
        task = app.task(name="tests.async")(consume_async)
        with pytest.raises(TypeError, match="synchronous"):
            once(operation="any", key="event_id")(task)
