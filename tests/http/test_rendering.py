"""What makes the response runs once, inside the transaction, and never for a replay."""

import pytest
from django.db import connection, transaction
from django.urls import path
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.http.asking import assert_same_reply, assert_untouched, replayed

#: Where each maker of the response was: (name, inside our transaction).
made: list[tuple[str, bool]] = []


def note(name: str) -> None:
    """Inside is where the claim is visible and not yet finished."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM idempotency_record WHERE state = 'running'")
        made.append((name, cursor.fetchone()[0] == 1))


class LazySerializer(serializers.ModelSerializer):
    total = serializers.SerializerMethodField()

    class Meta:
        model = Booking
        fields = ("id", "total")

    def get_total(self, booking) -> int:
        note("serializer")
        return Booking.objects.count()


class Querying(JSONRenderer):
    def render(self, data, accepted_media_type=None, renderer_context=None):
        note("renderer")
        return super().render(data, accepted_media_type, renderer_context)


class Bookings(IdempotencyMixin, APIView):
    renderer_classes = [Querying]

    def post(self, request):
        return Response(LazySerializer(Booking.objects.create(name="one")).data, status=201)

    def finalize_response(self, request, response, *args, **kwargs):
        note("finalize")
        response = super().finalize_response(request, response, *args, **kwargs)
        response["X-Finalized"] = "yes"
        return response


class Breaking(Bookings):
    """Its renderer fails after the handler has succeeded."""

    class Broken(JSONRenderer):
        def render(self, data, accepted_media_type=None, renderer_context=None):
            raise RuntimeError("cannot render")

    renderer_classes = [Broken]


class Marking(Bookings):
    """Marks the transaction while it finalizes."""

    renderer_classes = [JSONRenderer]

    def finalize_response(self, request, response, *args, **kwargs):
        response = super().finalize_response(request, response, *args, **kwargs)
        transaction.set_rollback(True)
        return response


urlpatterns = [
    path("bookings/", Bookings.as_view()),
    path("remembering/", Bookings.as_view(idempotency_policy=Policy(remember_errors={402}))),
    path("breaking/", Breaking.as_view()),
    path("marking/", Marking.as_view()),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _nothing_made():
    made.clear()


@pytest.mark.parametrize("url", ["/bookings/", "/remembering/"])
def test_the_response_is_made_once_inside_the_transaction(redis_db, api, url):
    """Serializer, the project's finalize_response and the renderer, in DRF's order."""
    first = api.ask(url)
    assert made == [("serializer", True), ("finalize", True), ("renderer", True)]
    assert first.json() == {"id": first.json()["id"], "total": 1}


@pytest.mark.parametrize("url", ["/bookings/", "/remembering/"])
def test_a_replay_makes_nothing(redis_db, api, url):
    """It is the stored reply, what finalize_response added included."""
    first = api.ask(url)
    made.clear()
    again = api.ask(url)
    assert made == []
    assert_same_reply(first, again)
    assert again["X-Finalized"] == first["X-Finalized"] == "yes"


def test_without_a_key_the_response_is_made_once_too(redis_db, api):
    assert api.ask("/bookings/", key=None)["X-Finalized"] == "yes"
    assert [name for name, _ in made] == ["serializer", "finalize", "renderer"]


def test_a_refusal_is_finalized_like_any_error(redis_db, api):
    refused = api.ask("/bookings/", key="a b")
    assert (refused.status_code, refused["X-Finalized"]) == (400, "yes")
    assert [name for name, _ in made] == ["finalize", "renderer"]


@pytest.mark.django_db(transaction=True)
def test_a_renderer_that_fails_undoes_the_work(redis_db, api):
    """500 with the key free: nobody is told of a success that cannot be shown."""
    assert api.ask("/breaking/").status_code == 500
    assert not Booking.objects.exists()
    assert_untouched(redis_db)


@pytest.mark.django_db(transaction=True)
def test_a_transaction_marked_while_finalizing_is_not_remembered(redis_db, api, happened):
    assert api.ask("/marking/").status_code == 201
    assert not Booking.objects.exists()
    assert_untouched(redis_db)
    assert happened.named("rolled_back") == ["201"]
    assert not replayed(api.ask("/marking/"))
