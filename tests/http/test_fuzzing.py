"""Anything at all in headers and body: an answer from the table, never an uncaught exception."""

import json
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import include, path
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rest_framework import parsers
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.decorators import idempotent_view
from idempotency.models import IdempotencyRecord
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.http.asking import assert_refused, replayed


class Bookings(IdempotencyMixin, APIView):
    parser_classes: Any = (parsers.JSONParser, parsers.FormParser, parsers.MultiPartParser)

    def post(self, request):
        name = type(request.data).__name__
        return Response({"id": Booking.objects.create(name=name).pk}, status=201)


class Files(Bookings):
    parser_classes = (parsers.FileUploadParser,)


@idempotent_view(operation="plain")
def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{Booking.objects.create(name='plain').pk}", status=201)


urlpatterns = [
    path("bookings/", Bookings.as_view()),
    path("files/", Files.as_view()),
    path("plain/", plain),
    path("idempotency/", include("idempotency.urls")),
]
pytestmark = [
    pytest.mark.urls(__name__),
    pytest.mark.django_db,
    pytest.mark.usefixtures("redis_db"),
]

#: A refusal that the client can mend: the key, the body, its media type.
MENDABLE = {400, 413, 415}
#: What a server hands on of a header: any text of one line, in Latin-1.
LATIN = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=300)
#: What looks like a structured field, whole or cut off.
FIELDS = st.lists(
    st.sampled_from(['"', "\\", ";", "=", ",", "a", "key", "?1", ":", " ", "\t", "(", ")", "é"]),
    max_size=12,
).map("".join)
BOUNDARY = "--X"
JSON = "application/json"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
#: Pieces that break parsers, in any order.
PIECES = st.lists(
    st.sampled_from(
        [
            *(
                b'{"a":',
                b'"b"',
                b"}",
                b"[",
                b"]",
                b",",
                b"1e999",
                b"NaN",
                b"-Infinity",
                b"9" * 5000,
            ),
            *(b'"\\ud800"', b'"\\u0000"', b"\0", b"\xff\xfe", b"a=1", b"&", b"%", b"%ff", b"a[]="),
            *(f"{BOUNDARY}\r\n".encode(), f"{BOUNDARY}--\r\n".encode(), b"\r\n\r\n", b"\r\n"),
            *(b'Content-Disposition: form-data; name="a"; filename="\xff/../b"', b"name*=utf-8''%"),
            *(b"Content-Transfer-Encoding: base64\r\n", b"Content-Type: text/x; charset=zip\r\n"),
        ]
    ),
    max_size=10,
).map(b"".join)
BODIES = st.binary(max_size=100) | PIECES | VALUES.map(lambda value: json.dumps(value).encode())
TYPES = st.sampled_from(
    [
        *(JSON, f"{JSON}; charset=utf-16", f"{JSON}; charset=hex", f"{JSON};charset=zlib"),
        *(f"{JSON}; charset=nonsense", "application/x-www-form-urlencoded", "text/plain", ""),
        *("application/x-www-form-urlencoded; charset=idna", "multipart/form-data", "x"),
        *(f"multipart/form-data; boundary={BOUNDARY[2:]}", "multipart/form-data; boundary="),
    ]
)
fuzzed = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
keys = (f"key-{number}" for number in count())


def send(key: str, body: bytes, content_type: str, to: str = "/bookings/", **meta: str) -> Any:
    client = Client(raise_request_exception=True)
    sent: Any = {"HTTP_IDEMPOTENCY_KEY": key} | meta
    return client.generic("POST", to, body, content_type, **sent)


def written() -> tuple[int, int]:
    return Booking.objects.count(), IdempotencyRecord.objects.count()


def ask_twice(key: str, body: bytes, content_type: str, **options: str) -> None:
    """Done once and replayed, or refused twice with nothing written."""
    bookings, records = written()
    first = send(key, body, content_type, **options)
    again = send(key, body, content_type, **options)
    if first.status_code == 201:
        assert (again.status_code, again.content) == (201, first.content)
        assert replayed(again)
        assert written() == (bookings + 1, records + 1)
    else:
        assert first.status_code in MENDABLE, first.content
        assert first.content  # a body that Django itself gives up on is told in HTML
        assert again.status_code == first.status_code
        assert written() == (bookings, records)


@fuzzed
@given(LATIN | FIELDS)
@example("")
@example('"' * 10_000)
@example("k, k")
@example("\x7f")
def test_any_key(header: str) -> None:
    """It is a key, or told to be none."""
    IdempotencyRecord.objects.all().delete()
    bookings, _ = written()
    first = send(header, b"{}", JSON)
    if first.status_code == 400:
        assert_refused(first, 400, "idempotency_key_invalid")
        assert written() == (bookings, 0)
        return
    again = send(header, b"{}", JSON)
    assert (first.status_code, again.status_code) == (201, 201)
    assert written() == (bookings + 1, 1)
    assert replayed(again)


@fuzzed
@given(LATIN)
def test_any_scope(scope: str) -> None:
    ask_twice(next(keys), b"{}", JSON, HTTP_IDEMPOTENCY_SCOPE=scope)


@fuzzed
@given(LATIN.filter(str.strip))
def test_any_media_type(content_type: str) -> None:
    ask_twice(next(keys), b"{}", content_type)


@fuzzed
@given(st.binary(max_size=200) | PIECES, TYPES)
def test_any_body(body: bytes, content_type: str) -> None:
    ask_twice(next(keys), body, content_type)


@fuzzed
@given(st.binary(max_size=200), LATIN)
def test_any_file(body: bytes, disposition: str) -> None:
    ask_twice(next(keys), body, "x/y", to="/files/", HTTP_CONTENT_DISPOSITION=disposition)


@fuzzed
@given(VALUES, st.data())
def test_any_json_cut_anywhere(value: Any, data: st.DataObject) -> None:
    whole = json.dumps(value).encode()
    ask_twice(next(keys), whole[: data.draw(st.integers(0, len(whole)))], JSON)


@fuzzed
@given(st.binary(max_size=200) | PIECES, TYPES)
def test_any_body_to_a_plain_view(body: bytes, content_type: str) -> None:
    ask_twice(next(keys), body, content_type, to="/plain/")


@pytest.mark.parametrize("to", ["/bookings/", "/plain/"])
@fuzzed
@given(one=BODIES, other=BODIES, content_type=TYPES)
@example(one=b'{"\\ud800": 1}', other=b'{"\\ud800": 2}', content_type=JSON)
def test_any_two_bodies_under_one_key(to: str, one: bytes, other: bytes, content_type: str) -> None:
    """The second is the first, or refused; the fields that are named can be told."""
    key = next(keys)
    bookings, _ = written()
    first = send(key, one, content_type, to=to)
    second = send(key, other, content_type, to=to)
    if first.status_code != 201:
        assert first.status_code in MENDABLE
    elif second.status_code == 201:
        assert second.content == first.content
    elif second.status_code == 409:
        assert_refused(second, 409, "idempotency_key_reused")
        assert written()[0] == bookings + 1
    else:
        assert second.status_code in MENDABLE


@fuzzed
@given(LATIN | FIELDS | st.text(max_size=300), LATIN, st.sampled_from(["", "1", "é", "\0"]))
def test_any_look_up(key: str, operation: str, reply: str) -> None:
    """There is no such key, or the question makes no sense."""
    user, _ = User.objects.get_or_create(username="ada")
    client = Client(raise_request_exception=True)
    client.force_login(user)
    url = f"/idempotency/keys/{quote(key, safe='')}/"
    asked = client.get(url, {"operation": operation, "reply": reply})
    assert asked.status_code in {400, 404}


def nested(depth: int) -> bytes:
    return b'[{"a":' * depth + b"1" + b"}]" * depth


@pytest.mark.parametrize("content_type", [JSON, f"{JSON}; charset=utf-8"])
def test_json_nested_too_deeply_is_refused_as_a_malformed_body(content_type: str) -> None:
    response = send("deep", nested(100_000), content_type)
    assert (response.status_code, written()) == (400, (0, 0))
    assert "nested too deeply" in response.json()["detail"]
    ask_twice("deep", nested(50), content_type)
    # How deep is too deep is Python's to say: another version, another answer.
    ask_twice("deeper", nested(600), content_type)
