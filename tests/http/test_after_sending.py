"""Redis is told when the reply is on its way: its client does not wait for that."""

import io
import json
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.http import JsonResponse
from django.test import RequestFactory
from django.urls import path, resolve
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.decorators import idempotent_view
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.http.asking import replayed


class Bookings(IdempotencyMixin, APIView):
    authentication_classes = []

    def post(self, request):
        return Response({"id": Booking.objects.create(name="one").pk}, status=201)


@idempotent_view(operation="plain", caller=lambda request: "anon")
def plain(request):
    return JsonResponse({"id": Booking.objects.create(name="one").pk}, status=201)


urlpatterns = [path("bookings/", Bookings.as_view()), path("plain/", plain)]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.usefixtures("redis_db")]
views = pytest.mark.parametrize("url", ["/bookings/", "/plain/"])


def served(url: str) -> Any:
    """The response as a WSGI server holds it: sent, and not yet closed."""
    status: list[str] = []

    def start(line: str, *rest: Any) -> Any:
        status.append(line)

    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": url,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "2",
        "HTTP_IDEMPOTENCY_KEY": "k-1",
        "wsgi.input": io.BytesIO(b"{}"),
        "wsgi.url_scheme": "http",
    }
    response = WSGIHandler()(environ, start)
    assert status == ["201 Created"]
    return response


def names(redis_db: Any) -> set[str]:
    """What stands in Redis, by its last word: the reply, the lock, the wake-up."""
    return {name.decode().rpartition(":")[2] for name in redis_db.keys("*")}


@views
@pytest.mark.django_db(transaction=True)
def test_the_lock_stands_until_the_response_is_closed(redis_db, url):
    response = served(url)
    assert names(redis_db) == {"lock"}
    response.close()
    assert names(redis_db) == {"reply", "wake"}


@views
@pytest.mark.django_db(transaction=True)
def test_a_response_that_nobody_closes_keeps_no_retry_from_its_reply(url):
    """A middleware may have put another in its place."""
    first = served(url)
    again = served(url)
    assert again["Idempotent-Replayed"] == "true"
    assert json.loads(again.content) == json.loads(first.content)
    assert Booking.objects.count() == 1


@views
@pytest.mark.django_db
def test_in_a_test_case_the_lock_is_left_at_once(redis_db, url):
    """Nothing is committed there, so nothing is published; and who calls a view closes nothing."""
    headers = {"Idempotency-Key": "k-1"}
    view = resolve(url).func
    first, again = (view(RequestFactory().post(url, {}, headers=headers)) for _ in range(2))
    assert (first.status_code, replayed(again)) == (201, True)
    assert names(redis_db) == {"wake"}
