"""Observe mode without keys: equal requests are known by their fingerprint, and all of them run."""

from datetime import timedelta

import pytest
from django.db import connection
from django.http import JsonResponse
from django.urls import path
from rest_framework.authentication import TokenAuthentication
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency import observing
from idempotency.decorators import idempotent_view
from idempotency.jobs import start_job
from idempotency.keys import current_key
from idempotency.models import IdempotencyRecord
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.concurrent import PATIENCE, Crew
from tests.factories import UserFactory
from tests.http.asking import Caller, caller_of, replayed
from tests.worked import tasks

OBSERVE = Policy(mode="observe")
NEW, KNOWN, UNKNOWN = (f"{word}_by_fingerprint" for word in ("executed", "replayed", "unknown"))


class Bookings(IdempotencyMixin, APIView):
    authentication_classes = [TokenAuthentication]
    idempotency_operation = "bookings.book"
    idempotency_policy = OBSERVE

    def post(self, request, **kwargs):
        booking = Booking.objects.create(name=request.data.get("name", "nobody"))
        match request.data.get("end"):
            case "raise":
                raise RuntimeError("asked for")
            case "refuse":
                raise ValidationError("asked for")
            case "fail":
                return Response(status=503)
        return Response({"id": booking.pk}, status=201)


class Other(Bookings):
    idempotency_operation = "bookings.other"


class Lenient(Bookings):
    idempotency_operation = "bookings.lenient"
    idempotency_policy = Policy(mode="observe", mismatch="lenient", ignore_fields={"sent_at"})


class Forms(Bookings):
    idempotency_operation = "bookings.forms"
    parser_classes = [FormParser, MultiPartParser]


class Deaf(Bookings):
    """Looks at no body."""

    idempotency_operation = "bookings.deaf"
    parser_classes = [JSONParser]

    def post(self, request, **kwargs):
        return Response({"id": Booking.objects.create(name="deaf").pk}, status=201)


class Nameless(Bookings):
    """Cannot say who asks."""

    idempotency_operation = "bookings.nameless"

    def get_idempotency_caller(self, request):
        raise LookupError("nobody")


class Keyed(Bookings):
    idempotency_operation = "bookings.keyed"

    def post(self, request, **kwargs):
        try:
            return Response({"key": current_key()})
        except LookupError:
            return Response({"key": None})


class Leased(Bookings):
    idempotency_operation = "bookings.leased"
    idempotency_policy = Policy(mode="observe", execution="leased")


class Jobs(Bookings):
    idempotency_operation = "bookings.jobs"
    idempotency_policy = Policy(mode="observe", execution="job")

    def post(self, request, **kwargs):
        return start_job(tasks.book, name=request.data["name"])


@idempotent_view(operation="bookings.plain", policy=OBSERVE)
def plain(request):
    read = request.read() if "stream" in request.GET else request.body
    return JsonResponse({"id": Booking.objects.create(name=str(len(read))).pk}, status=201)


urlpatterns = [
    path("bookings/", Bookings.as_view()),
    path("bookings/<int:number>/", Bookings.as_view()),
    path("other/", Other.as_view()),
    path("lenient/", Lenient.as_view()),
    path("forms/", Forms.as_view()),
    path("deaf/", Deaf.as_view()),
    path("nameless/", Nameless.as_view()),
    path("keyed/", Keyed.as_view()),
    path("leased/", Leased.as_view()),
    path("jobs/", Jobs.as_view()),
    path("plain/", plain),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]
ADA = {"name": "Ada"}


def observed(happened):
    return happened.named("observed")


def ask(api, url="/bookings/", data=None, **options):
    answer = api.ask(url, ADA if data is None else data, key=None, **options)
    assert not replayed(answer)
    return answer


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("/bookings/", {}),
        ("/bookings/", {"content_type": "application/json"}),  # as most clients say it
        ("/forms/", {"format": "multipart"}),
        ("/plain/", {}),
        ("/leased/", {}),
    ],
)
def test_every_request_runs_and_its_likes_are_counted(redis_db, api, happened, url, options):
    ids = {ask(api, url, **options).json()["id"] for _ in range(3)}
    assert len(ids) == Booking.objects.count() == 3
    assert observed(happened) == [NEW, KNOWN, KNOWN]


@pytest.mark.django_db(transaction=True)
def test_of_a_job_too(redis_db, api, happened, messages):
    assert [ask(api, "/jobs/").status_code for _ in range(2)] == [202, 202]
    assert len(messages) == 2
    assert observed(happened) == [NEW, KNOWN]


def test_another_request_is_another(redis_db, happened):
    ada, bob = (caller_of(UserFactory.create()) for _ in range(2))
    for api, url, data in (
        (ada, "/bookings/", ADA),
        (bob, "/bookings/", ADA),
        (ada, "/bookings/?seat=1", ADA),
        (ada, "/bookings/7/", ADA),
        (ada, "/other/", ADA),
        (ada, "/bookings/", {"name": "Eve"}),
    ):
        assert ask(api, url, data).status_code == 201
    assert observed(happened) == [NEW] * 6


def test_no_body_is_forgiven_but_ignored_fields_are(redis_db, api, happened):
    """Without a key, the body is all there is to know a request by: lenient or not."""
    for data in (ADA | {"sent_at": 1}, ADA | {"sent_at": 2}, {"name": "Eve"}):
        ask(api, "/lenient/", data)
    assert observed(happened) == [NEW, KNOWN, NEW]


def test_a_minute_later_it_is_new(redis_db, api, happened):
    ask(api)
    record = IdempotencyRecord.objects.get()
    assert record.expires_at == record.purge_at
    assert record.purge_at - record.completed_at == timedelta(seconds=observing.WINDOW)
    passed = record.purge_at - timedelta(minutes=5)
    IdempotencyRecord.objects.update(purge_at=passed, expires_at=passed)
    assert ask(api).status_code == 201
    ask(api)
    assert observed(happened) == [NEW, NEW, KNOWN]


@pytest.mark.parametrize("url", ["/bookings/", "/leased/"])
@pytest.mark.parametrize(("end", "status"), [("raise", 500), ("refuse", 400), ("fail", 503)])
def test_what_failed_is_no_first_one(redis_db, api, happened, url, end, status):
    for _ in range(2):
        assert ask(api, url, ADA | {"end": end}).status_code == status
    assert not Booking.objects.exists()
    assert observed(happened) == []


def test_no_reply_and_no_body_is_kept(redis_db, api):
    ask(api)
    record = IdempotencyRecord.objects.get()
    assert (record.body, record.headers, record.fields) == (None, "[]", None)


def test_the_handler_has_no_key(redis_db, api):
    """It might send one on that is derived from it, and another service deduplicate by that."""
    assert [ask(api, "/keyed/").json() for _ in range(2)] == [{"key": None}] * 2


def test_a_key_is_a_key(redis_db, api, happened):
    """Requests with a key and without are not each other's duplicates."""
    ask(api)
    api.ask("/bookings/", ADA)
    api.ask("/bookings/", ADA, key="k-2")
    api.ask("/bookings/", ADA)
    ask(api)
    assert observed(happened) == [NEW, "executed", "executed", "replayed", KNOWN]


def test_the_fingerprints_key_is_not_to_be_guessed(redis_db, api, happened, settings):
    """Its digest takes the secret."""
    ask(api)
    key = IdempotencyRecord.objects.get().key
    settings.SECRET_KEY = "another"
    ask(api)
    assert {record.key for record in IdempotencyRecord.objects.all()} > {key}
    assert observed(happened) == [NEW, NEW]


# Whatever goes wrong with the counting, the request does not


def test_a_body_that_nobody_reads_is_not_refused(redis_db, api, happened):
    answer = api.post("/deaf/", "{no json", content_type="application/json")
    assert answer.status_code == 201
    assert observed(happened) == [UNKNOWN]


def test_a_stream_that_is_gone(redis_db, api, happened):
    assert ask(api, "/plain/?stream").status_code == 201
    assert observed(happened) == [UNKNOWN]


def test_a_caller_without_a_name(redis_db, api, happened):
    assert ask(api, "/nameless/").status_code == 201
    assert observed(happened) == [UNKNOWN]


def test_a_ledger_that_is_not_there(redis_db, api, happened):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE idempotency_record RENAME TO elsewhere")
    assert ask(api).status_code == 201
    assert Booking.objects.count() == 1
    assert observed(happened) == [UNKNOWN]


@pytest.mark.django_db(transaction=True)
def test_of_a_crowd_one_is_new(redis_db, happened):
    with Crew(8) as crew:
        asked = [crew.start(ask, Caller()) for _ in range(8)]
        assert {one.result(PATIENCE).status_code for one in asked} == {201}
    assert Booking.objects.count() == 8
    assert sorted(observed(happened)) == [NEW] + [KNOWN] * 7
