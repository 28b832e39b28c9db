"""Errors on their way through DRF: the project's exception handler, problems and renderers."""

import pytest
from django.urls import path
from rest_framework import exceptions
from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView, exception_handler

from idempotency.exceptions import IdempotencyError, KeyRequired, KeyReused
from idempotency.models import IdempotencyRecord
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.http.asking import PROBLEM, assert_refused, assert_same_reply, assert_untouched


class PaymentRequired(exceptions.APIException):
    status_code = 402
    default_code = "declined"


class Bookings(IdempotencyMixin, APIView):
    #: What post() raises after its effect.
    error: Exception | None = None

    def post(self, request):
        booking = Booking.objects.create(name="one")
        if Bookings.error is not None:
            raise Bookings.error
        return Response({"id": booking.pk}, status=201)


class Text(BaseRenderer):
    media_type = "text/plain"
    format = "text"

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return "\n".join(f"{name}: {value}" for name, value in data.items())


class House(JSONRenderer):
    """Another JSON renderer of the usual media type."""


urlpatterns = [
    path("bookings/", Bookings.as_view(idempotency_policy=Policy(required=True))),
    path("remembering/", Bookings.as_view(idempotency_policy=Policy(remember_errors={402}))),
    path("text/", Bookings.as_view(renderer_classes=[Text])),
    path("house/", Bookings.as_view(renderer_classes=[House])),
    path("browsable/", Bookings.as_view(renderer_classes=[JSONRenderer, BrowsableAPIRenderer])),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]

#: What the project's handlers below were called with.
handled: list[Exception] = []


def noting(exc, context):
    handled.append(exc)
    return exception_handler(exc, context)


def enveloping(exc, context):
    """Most projects' handler: the errors in an envelope of their own."""
    response = exception_handler(exc, context)
    if response is not None:
        response.data = {"errors": [response.data]}
    return response


def adding(exc, context):
    """Adds a field to whatever DRF says."""
    response = exception_handler(exc, context)
    if response is not None:
        response.data["request_id"] = "r-1"
    return response


def rewriting(exc, context):
    """Knows our errors, and answers in its own way."""
    if isinstance(exc, KeyReused):
        return Response({"oops": list(exc.mismatched_fields or ())}, status=418)
    return exception_handler(exc, context)


def from_scratch(exc, context):
    """Calls nothing of DRF's, so it sends no Retry-After either."""
    return Response({"oops": str(exc)}, status=getattr(exc, "status_code", 500))


@pytest.fixture(autouse=True)
def _nothing_handled():
    handled.clear()


@pytest.fixture
def project_handles(settings):
    def choose(handler):
        settings.REST_FRAMEWORK = {"EXCEPTION_HANDLER": f"{__name__}.{handler.__name__}"}

    return choose


# Refusals


SAID = KeyRequired.default_detail


@pytest.mark.parametrize(
    ("handler", "body"),
    [
        (enveloping, {"errors": [{"detail": SAID}]}),
        (adding, {"detail": SAID, "request_id": "r-1"}),
    ],
)
def test_a_refusal_goes_through_the_projects_handler_whose_body_stands(
    redis_db, api, project_handles, handler, body
):
    """Its media type is not ours then either."""
    project_handles(handler)
    refused = api.ask("/bookings/", key=None)
    assert (refused.status_code, refused.json()) == (400, body)
    assert refused["Content-Type"] == "application/json"


def test_a_projects_handler_may_answer_a_refusal_itself(redis_db, api, project_handles):
    """The exception tells it what differs."""
    project_handles(rewriting)
    api.ask("/bookings/", {"a": 1})
    refused = api.ask("/bookings/", {"a": 2})
    assert (refused.status_code, refused.json()) == (418, {"oops": ["a"]})


def test_a_handler_that_leaves_the_body_alone_gets_the_problem(redis_db, api, project_handles):
    project_handles(noting)
    assert_refused(api.ask("/bookings/", key=None), 400, "idempotency_key_required")
    assert [type(error).__name__ for error in handled] == ["KeyRequired"]


def test_every_refusal_is_an_api_exception_with_a_status_and_a_code():
    """What generic handlers look at."""
    for refusal in IdempotencyError.__subclasses__():
        error = refusal()
        assert error.get_codes() == refusal.default_code
        assert error.problem()["status"] == error.status_code
        assert error.default_code.startswith("idempotency_")


# Renderers


@pytest.mark.parametrize("url", ["/bookings/", "/house/"])
def test_a_problem_is_problem_json_where_the_renderer_is_json(redis_db, api, url):
    refused = api.ask(url, key="a b", HTTP_ACCEPT="application/json; indent=2")
    assert_refused(refused, 400, "idempotency_key_invalid")
    assert refused["Content-Type"] == PROBLEM


def test_another_renderer_keeps_its_media_type(redis_db, api):
    refused = api.ask("/text/", key="a b")
    assert refused.status_code == 400
    assert refused["Content-Type"] == "text/plain; charset=utf-8"
    assert "code: idempotency_key_invalid" in refused.content.decode()


def test_the_browsable_api_shows_refusals_and_replays(redis_db, api):
    """Its pages render forms with the view; a replay is the page of the first."""
    html = {"HTTP_ACCEPT": "text/html"}
    first = api.ask("/browsable/", **html)
    assert first.status_code == 201
    assert first["Content-Type"].startswith("text/html")
    assert_same_reply(first, api.ask("/browsable/", **html))
    refused = api.ask("/browsable/", {"a": 2}, **html)
    assert refused.status_code == 409
    assert b"idempotency_key_reused" in refused.content
    assert Booking.objects.count() == 1


# The handler's own errors


@pytest.mark.parametrize(
    ("error", "status", "remembered"),
    [
        (PaymentRequired(), 402, True),
        (exceptions.ParseError(), 400, False),
        (RuntimeError("broken"), 500, False),
    ],
    ids=["remembered", "forgotten", "unhandled"],
)
@pytest.mark.parametrize("url", ["/bookings/", "/remembering/"])
def test_the_projects_handler_is_called_once_for_each_error(
    redis_db, api, project_handles, monkeypatch, url, error, status, remembered
):
    """Remembered, forgotten or unhandled; it may report to somebody."""
    project_handles(noting)
    monkeypatch.setattr(Bookings, "error", error)
    response = api.ask(url)
    assert response.status_code == status
    assert handled == [error]
    assert not Booking.objects.exists()
    assert IdempotencyRecord.objects.exists() is (remembered and url == "/remembering/")


def test_an_unhandled_error_reaches_django_untouched(redis_db, api, monkeypatch):
    """The very exception, for the project's error reports."""
    error = RuntimeError("broken")
    monkeypatch.setattr(Bookings, "error", error)
    api.raise_request_exception = True
    for url in ("/bookings/", "/remembering/"):
        with pytest.raises(RuntimeError) as raised:
            api.ask(url)
        assert raised.value is error
    assert_untouched(redis_db)


def test_an_error_that_the_project_renders_as_remembered_is_kept_as_rendered(
    redis_db, api, project_handles, monkeypatch
):
    project_handles(enveloping)
    monkeypatch.setattr(Bookings, "error", PaymentRequired("no money"))
    first = api.ask("/remembering/")
    assert first.json() == {"errors": [{"detail": "no money"}]}
    assert_same_reply(first, api.ask("/remembering/"))


def test_a_project_that_answers_unknown_errors_itself_frees_the_key(
    redis_db, api, project_handles, monkeypatch
):
    """Its 500 is an answer, and a forgotten one."""
    project_handles(from_scratch)
    monkeypatch.setattr(Bookings, "error", RuntimeError("broken"))
    for url in ("/bookings/", "/remembering/"):
        response = api.ask(url)
        assert (response.status_code, response.json()) == (500, {"oops": "broken"})
        assert_untouched(redis_db)


def test_an_error_in_the_projects_handler_is_that_error(
    redis_db, api, project_handles, monkeypatch
):
    project_handles(failing)
    monkeypatch.setattr(Bookings, "error", PaymentRequired())
    for url in ("/bookings/", "/remembering/"):
        handled.clear()
        assert api.ask(url).status_code == 500
        assert len(handled) == 1
        assert_untouched(redis_db)


def failing(exc, context):
    handled.append(exc)
    raise RuntimeError("the handler itself")
