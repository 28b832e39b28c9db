"""What of a reply is stored, and given to every duplicate byte for byte."""

import pytest
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import path
from rest_framework.renderers import BaseRenderer
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.models import IdempotencyRecord
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.http.asking import assert_same_reply, replayed

STORED = {
    "Location": "/bookings/1/",
    "ETag": '"abc"',
    "Content-Type": "application/vnd.booking+json",
    "Content-Language": "de",
    "Last-Modified": "Tue, 01 Jan 2030 00:00:00 GMT",
    "Cache-Control": "no-store",
    "Link": '</bookings/?page=2>; rel="next"',
    "Retry-After": "5",
    "X-Booking": "7",
}
#: Cookies belong to one client; the rest to one connection or one moment.
NOT_STORED = {
    "Set-Cookie": "session=secret",
    "Date": "Tue, 01 Jan 2030 00:00:00 GMT",
    "Age": "1",
    "Server": "worker-1",
    "Server-Timing": "db;dur=1",
    "Via": "1.1 proxy",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "vendor=1",
    "X-Request-ID": "r-1",
    "X-Correlation-ID": "c-1",
    "Connection": "X-Hop",
    "X-Hop": "named by Connection",
    "Keep-Alive": "timeout=5",
    "Proxy-Authenticate": "Basic",
    "TE": "trailers",
    "Trailer": "X-Sum",
    "Transfer-Encoding": "identity",
    "Upgrade": "h2c",
}


class Answering(IdempotencyMixin, APIView):
    """Answers as the test says."""

    def answer(self):
        raise NotImplementedError

    def post(self, request):
        Booking.objects.create(name="one")
        return Answering.answer(self)


class Csv(BaseRenderer):
    media_type = "text/csv"
    format = "csv"
    charset = "latin-1"

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return ";".join(data).encode("latin-1")


class Image(BaseRenderer):
    media_type = "image/png"
    format = "png"
    charset = None
    render_style = "binary"

    def render(self, data, accepted_media_type=None, renderer_context=None):
        return data


urlpatterns = [
    path("answering/", Answering.as_view()),
    path("csv/", Answering.as_view(renderer_classes=[Csv])),
    path("image/", Answering.as_view(renderer_classes=[Image])),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]
committed = pytest.mark.django_db(transaction=True)


@pytest.fixture
def twice(redis_db, api, monkeypatch, happened):
    """The reply to a first request and to its duplicate, the same from cache and ledger."""

    def ask(answer, url="/answering/"):
        monkeypatch.setattr(Answering, "answer", answer)
        first, again = api.ask(url), api.ask(url)
        redis_db.flushdb()
        later = api.ask(url)
        assert happened.named("replayed") == ["cache", "ledger"]
        assert_same_reply(first, again)
        assert_same_reply(first, later)
        assert later.headers == again.headers
        assert Booking.objects.count() == 1
        return first, again

    return ask


# Headers


@committed
def test_the_applications_own_headers_are_stored_and_those_of_one_moment_are_not(twice):
    def answer(view):
        response = HttpResponse(b"{}", status=201, headers=STORED | NOT_STORED)
        response.set_cookie("theme", "dark")
        return response

    first, again = twice(answer)
    assert {name: first[name] for name in STORED | NOT_STORED} == STORED | NOT_STORED
    assert {name: again[name] for name in STORED} == STORED
    assert [name for name in NOT_STORED if name in again] == []
    assert (list(first.cookies), list(again.cookies)) == (["theme"], [])


def test_nothing_secret_of_a_reply_reaches_the_record(redis_db, api, monkeypatch):
    monkeypatch.setattr(Answering, "answer", lambda view: HttpResponse(headers=NOT_STORED))
    api.ask("/answering/")
    assert "secret" not in IdempotencyRecord.objects.get().headers


@committed
def test_an_odd_header_value_comes_back_as_it_was(twice):
    """Latin-1, and what Django has to encode."""
    headers = {"X-Latin": "caf\xe9", "X-Greek": "αβ"}
    first, again = twice(lambda view: HttpResponse(headers=headers))
    assert [first[name] for name in headers] == [again[name] for name in headers]


# Bodies


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00\xff\xfe\x00", bytes(range(256)) * 100, b"x" * 700_000, "é€".encode()],
    ids=["empty", "binary", "all bytes", "large", "utf-8"],
)
@committed
def test_a_body_comes_back_byte_for_byte(twice, body):
    _, again = twice(lambda view: HttpResponse(body, content_type="application/octet-stream"))
    assert again.content == body


@committed
def test_an_empty_204_has_no_content_type_either_time(twice):
    first, again = twice(lambda view: Response(status=204))
    assert (first.status_code, again.content) == (204, b"")
    assert "Content-Type" not in first
    assert "Content-Type" not in again


@pytest.mark.parametrize(
    ("answer", "content_type"),
    [
        (lambda view: Response({"name": "é"}, status=201), "application/json"),
        (lambda view: JsonResponse({"name": "é"}, status=200), "application/json"),
        (lambda view: HttpResponse("é", charset="latin-1"), "text/html; charset=latin-1"),
        (lambda view: HttpResponseRedirect("/bookings/1/"), "text/html; charset=utf-8"),
    ],
    ids=["DRF", "JsonResponse", "charset", "redirect"],
)
@committed
def test_every_kind_of_response_is_stored(twice, answer, content_type):
    first, _ = twice(answer)
    assert first["Content-Type"] == content_type


@pytest.mark.parametrize(
    ("url", "data", "content_type"),
    [("/csv/", ["ä", "b"], "text/csv; charset=latin-1"), ("/image/", b"\x89PNG\0", "image/png")],
)
@committed
def test_what_another_renderer_made_is_stored(twice, url, data, content_type):
    first, _ = twice(lambda view: Response(data), url)
    assert first["Content-Type"] == content_type


def test_a_stored_reply_is_not_rendered_again_for_another_accept(redis_db, api, monkeypatch):
    """The reply is what the first attempt was given."""
    monkeypatch.setattr(Answering, "answer", lambda view: Response({"a": 1}))
    first = api.ask("/answering/", HTTP_ACCEPT="application/json")
    again = api.ask("/answering/", HTTP_ACCEPT="text/html")
    assert_same_reply(first, again)
    assert replayed(again)
