"""What a request costs, counted: round trips to Redis and statements of ours."""

import os
from collections.abc import Callable

import pytest
import redis
from django.db import connection
from django.http import JsonResponse
from django.test.utils import CaptureQueriesContext
from django.urls import path
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.decorators import idempotent_view
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.http.asking import Caller, replayed


class Bookings(IdempotencyMixin, APIView):
    authentication_classes = []

    def post(self, request):
        return Response({"id": Booking.objects.create(name="one").pk}, status=201)


@idempotent_view(operation="plain", caller=lambda request: "anon")
def plain(request):
    return JsonResponse({"id": Booking.objects.create(name="one").pk}, status=201)


urlpatterns = [
    path("bookings/", Bookings.as_view()),
    path("remembering/", Bookings.as_view(idempotency_policy=Policy(remember_errors={402}))),
    path("plain/", plain),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db(transaction=True)]
views = pytest.mark.parametrize("url", ["/bookings/", "/plain/"])


@pytest.fixture(autouse=True)
def _warm(redis_db):
    """Connections are open and the scripts are known to Redis, as after a process's first hit."""
    for _ in range(2):
        Caller().ask("/bookings/", key="warm")


def commands(call: Callable[[], object]) -> list[str]:
    """What Redis is sent meanwhile, without what its scripts then do inside."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as marker:
        marker.ping()
        with redis.Redis.from_url(os.environ["REDIS_URL"]).monitor() as monitor:
            call()
            marker.echo("the end")
            sent: list[str] = []
            for told in monitor.listen():
                if "the end" in told["command"]:
                    return sent
                if told["client_type"] != "lua":
                    sent.append(told["command"].split()[0])
    raise AssertionError("unreachable")


def scripts(redis_db: redis.Redis) -> int:
    """EVALSHA calls since the server started."""
    return int(redis_db.info("commandstats")["cmdstat_evalsha"]["calls"])


def sql(call: Callable[[], object]) -> list[str]:
    """The first words of the statements meanwhile: BEGIN, INSERT, UPDATE, COMMIT..."""
    with CaptureQueriesContext(connection) as queries:
        call()
    return [query["sql"].split()[0] for query in queries]


@views
def test_a_replay_is_one_command_and_no_sql(redis_db, api, url):
    api.ask(url)
    before = scripts(redis_db)
    assert commands(lambda: api.ask(url)) == ["EVALSHA"]
    assert scripts(redis_db) - before == 1
    assert sql(lambda: api.ask(url)) == []
    assert replayed(api.ask(url))


@views
def test_a_first_request_is_two_commands(redis_db, api, url):
    """One to enter, one to leave."""
    before = scripts(redis_db)
    assert commands(lambda: api.ask(url)) == ["EVALSHA", "EVALSHA"]
    assert scripts(redis_db) - before == 2


@views
def test_a_first_request_is_two_statements_in_the_transaction_of_the_effects(redis_db, api, url):
    """The claim first, the finish last; no savepoint, and no second transaction."""
    bare = sql(lambda: api.ask(url, key=None))
    assert bare == ["BEGIN", "INSERT", "COMMIT"]
    assert sql(lambda: api.ask(url)) == ["BEGIN", "INSERT", "INSERT", "UPDATE", "COMMIT"]


def test_only_remember_errors_costs_a_savepoint(redis_db, api):
    statements = sql(lambda: api.ask("/remembering/"))
    assert [s for s in statements if s in ("SAVEPOINT", "RELEASE")] == ["SAVEPOINT", "RELEASE"]
    assert len(statements) == 7


def test_without_a_key_redis_is_not_asked(redis_db, api):
    assert commands(lambda: api.ask("/bookings/", key=None)) == []


@pytest.mark.parametrize("key", ["a b", ""])
def test_a_malformed_key_costs_nothing(redis_db, api, key):
    assert commands(lambda: api.ask("/bookings/", key=key)) == []
    assert sql(lambda: api.ask("/bookings/", key=key)) == []


def test_a_replay_from_the_ledger_is_two_commands_and_two_statements(redis_db, api):
    """Redis was emptied: the refused claim and the read, then the entry is there again."""
    api.ask("/bookings/")
    redis_db.flushdb()
    assert sql(lambda: api.ask("/bookings/")) == ["BEGIN", "INSERT", "SELECT", "COMMIT"]
    redis_db.flushdb()
    assert commands(lambda: api.ask("/bookings/")) == ["EVALSHA", "EVALSHA"]


def test_counting_adds_nothing_to_a_replay(redis_db, api, happened):
    """Whoever listens."""
    api.ask("/bookings/")
    assert commands(lambda: api.ask("/bookings/")) == ["EVALSHA"]
    assert sql(lambda: api.ask("/bookings/")) == []
    assert happened.named("replayed") == ["cache", "cache"]
