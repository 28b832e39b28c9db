"""What counts as the same request under one key, and what does not."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import path
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.http.asking import assert_refused, assert_untouched, replayed

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


class Bookings(IdempotencyMixin, APIView):
    parser_classes = [JSONParser, FormParser, MultiPartParser]

    def post(self, request):
        return Response({"id": Booking.objects.create(name="one").pk}, status=201)


class Reading(Bookings):
    """Its handler reads the parsed body, after the fingerprint has."""

    def post(self, request):
        upload = request.data["file"]
        return Response({"name": upload.name, "text": upload.read().decode()}, status=201)


class Raw(Bookings):
    """Reads the bytes itself: no parser of it knows the media type."""

    def post(self, request):
        return Response({"read": request.stream.read().decode("latin-1")}, status=201)


class Unread(Bookings):
    """Never looks at the body."""


urlpatterns = [
    path("bookings/", Bookings.as_view()),
    path("ignoring/", Bookings.as_view(idempotency_policy=Policy(ignore_fields={"sent_at"}))),
    path("lenient/", Bookings.as_view(idempotency_policy=Policy(mismatch="lenient"))),
    path("reading/", Reading.as_view()),
    path("raw/", Raw.as_view()),
    path("unread/", Unread.as_view()),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


def ask(api, body, content_type=JSON, url="/bookings/", **options):
    return api.ask(url, body, content_type=content_type, **options)


# JSON

SAME_JSON = {
    "key order": (b'{"a": 1, "b": {"c": 2, "d": 3}}', b'{"b": {"d": 3, "c": 2}, "a": 1}'),
    "white space": (b'{"a":[1,2]}', b' { "a" : [ 1 , 2 ] }\n'),
    "escapes": (b'{"a": "\\u00e9"}', '{"a": "é"}'.encode()),
    "empty, which the parser reads as an empty object": (b"", b"{}"),
    "list": (b"[1]", b"[ 1 ]"),
    "lone surrogate": (b'{"a": "\\ud800"}', b'{ "a": "\\ud800" }'),
}
OTHER_JSON = {
    "text for number": (b'{"a": 1}', b'{"a": "1"}'),
    "float for number": (b'{"a": 1}', b'{"a": 1.0}'),
    "true for number": (b'{"a": 1}', b'{"a": true}'),
    "true for text": (b'{"a": "true"}', b'{"a": true}'),
    "null for text": (b'{"a": ""}', b'{"a": null}'),
    "null for nothing": (b'{"a": null}', b"{}"),
    "false for zero": (b'{"a": 0}', b'{"a": false}'),
    "list for scalar": (b'{"a": 1}', b'{"a": [1]}'),
    "list order": (b'{"a": [1, 2]}', b'{"a": [2, 1]}'),
    "case": (b'{"a": "x"}', b'{"a": "X"}'),
    "trailing space": (b'{"a": "x"}', b'{"a": "x "}'),
    "nested type": (b'{"a": {"b": [1]}}', b'{"a": {"b": ["1"]}}'),
    "moved between fields": (b'{"a": "xy", "b": ""}', b'{"a": "x", "b": "y"}'),
    "list for object": (b"[]", b"{}"),
    "scalar for list": (b"1", b"[1]"),
}


@pytest.mark.parametrize(("first", "again"), SAME_JSON.values(), ids=SAME_JSON.keys())
def test_the_same_json_in_another_spelling_is_the_same(redis_db, api, first, again):
    ask(api, first)
    assert replayed(ask(api, again))


@pytest.mark.parametrize(("first", "other"), OTHER_JSON.values(), ids=OTHER_JSON.keys())
def test_other_json_is_another_request(redis_db, api, first, other):
    assert ask(api, first).status_code == 201
    assert_refused(ask(api, other), 409, "idempotency_key_reused")
    assert Booking.objects.count() == 1


def test_ignored_fields_may_differ_appear_and_go(redis_db, api):
    ask(api, b'{"a": 1, "sent_at": 1}', url="/ignoring/")
    assert replayed(ask(api, b'{"a": 1, "sent_at": 2}', url="/ignoring/"))
    assert replayed(ask(api, b'{"a": 1}', url="/ignoring/"))
    refused = ask(api, b'{"a": 2, "sent_at": 2}', url="/ignoring/")
    assert refused.json()["mismatched_fields"] == ["a"]


def test_a_nested_field_of_an_ignored_name_counts(redis_db, api):
    ask(api, b'{"a": {"sent_at": 1}}', url="/ignoring/")
    assert ask(api, b'{"a": {"sent_at": 2}}', url="/ignoring/").status_code == 409


def test_deeply_nested_json_is_answered_as_without_a_key(redis_db, api):
    """Depth that the parser takes must not break the fingerprint."""
    nested = b'{"a":' * 400 + b"1" + b"}" * 400
    assert ask(api, nested, key=None).status_code == 201
    assert ask(api, nested).status_code == 201


def test_a_field_whose_name_is_no_text_is_named_all_the_same(redis_db, api):
    """A lone surrogate, which JSON may carry and UTF-8 may not."""
    ask(api, b'{"\\ud800": 1}')
    refused = ask(api, b'{"\\ud800": 2}')
    assert_refused(refused, 409, "idempotency_key_reused")
    assert refused.json()["mismatched_fields"] == ["\\ud800"]


@pytest.mark.parametrize("url", ["/bookings/", "/unread/"])
def test_malformed_json_leaves_the_key_free(redis_db, api, url):
    """400, as DRF answers it; the corrected request runs under the same key."""
    assert ask(api, b'{"a": ', url=url).status_code == 400
    assert_untouched(redis_db)
    assert ask(api, b'{"a": 1}', url=url).status_code == 201


# Forms and files


def boundary(name: str, *parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """A multipart body and its content type."""
    lines = b"".join(
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n"
        % (name.encode(), disposition.encode(), content)
        for disposition, content in parts
    )
    return lines + b"--%b--\r\n" % name.encode(), f"multipart/form-data; boundary={name}"


FILE = 'name="file"; filename="list.txt"'


def test_another_boundary_is_the_same_request(redis_db, api):
    parts = [('name="a"', b"1"), (FILE, b"content")]
    ask(api, *boundary("one", *parts))
    assert replayed(ask(api, *boundary("two", *parts)))
    assert replayed(ask(api, *boundary("three", *reversed(parts))))


@pytest.mark.parametrize(
    "parts",
    [
        [('name="a"', b"1"), (FILE, b"Content")],
        [('name="a"', b"1"), ('name="file"; filename="other.txt"', b"content")],
        [('name="a"', b"2"), (FILE, b"content")],
        [('name="a"', b"1"), ('name="a"', b"1"), (FILE, b"content")],
        [('name="a"', b"1"), (FILE, b"content"), (FILE, b"content")],
        [('name="a"', b"1"), ('name="file"', b"content")],
        [('name="a"', b"1")],
    ],
    ids=["content", "name", "field", "repeated", "file twice", "text for file", "no file"],
)
def test_another_file_or_field_is_another_request(redis_db, api, parts):
    ask(api, *boundary("one", ('name="a"', b"1"), (FILE, b"content")))
    assert ask(api, *boundary("one", *parts)).status_code == 409


def test_the_handler_reads_the_file_from_its_beginning(redis_db, api):
    """The fingerprint has read it before, and gives it back as it was."""
    first = ask(api, *boundary("one", (FILE, b"content")), url="/reading/")
    assert first.json() == {"name": "list.txt", "text": "content"}


def test_a_file_larger_than_memory_allows_counts_by_content(redis_db, api, settings):
    """A temporary file on disk, read in chunks."""
    settings.FILE_UPLOAD_MAX_MEMORY_SIZE = 10
    content = b"x" * 200_000

    def upload(content: bytes):
        file = SimpleUploadedFile("list.txt", content)
        return api.ask("/reading/", {"file": file}, format="multipart")

    assert upload(content).json()["text"] == content.decode()
    assert replayed(upload(content))
    assert upload(content[:-1] + b"y").status_code == 409


@pytest.mark.parametrize(
    ("first", "other", "same"),
    [
        (b"a=1&b=2", b"b=2&a=1", True),
        (b"a=%31", b"a=1", True),
        (b"a=1&a=2", b"a=2&a=1", False),
        (b"a=1&a=2", b"a=2", False),
        (b"a=1", b"a=1&a=1", False),
        (b"a=", b"", False),
    ],
    ids=["order", "encoding", "order of values", "last value", "repeated", "blank"],
)
def test_forms_count_by_fields_and_every_value(redis_db, api, first, other, same):
    ask(api, first, FORM)
    assert replayed(ask(api, other, FORM)) is same


def test_a_form_is_not_the_json_that_spells_it(redis_db, api):
    """The view sees text in the one and a list in the other."""
    ask(api, b"a=1", FORM)
    assert ask(api, b'{"a": ["1"]}', JSON).status_code == 409


# Bytes that no parser reads


@pytest.mark.parametrize(
    ("other", "same"), [(b"\x00\xff\xfe", True), (b"\x00\xff\xfd", False), (b"", False)]
)
def test_unparsed_bytes_count_as_they_are(redis_db, api, other, same):
    """NULs and bytes that are no UTF-8, in a media type that the view has no parser for."""
    content_type = "application/octet-stream"
    assert ask(api, b"\x00\xff\xfe", content_type, "/unread/").status_code == 201
    assert replayed(ask(api, other, content_type, "/unread/")) is same


def test_a_handler_still_reads_unparsed_bytes_from_the_stream(redis_db, api):
    assert ask(api, b"\x00\xff", "text/csv", "/raw/").json() == {"read": "\x00\xff"}


def test_an_unsupported_media_type_that_the_handler_parses_is_its_415(redis_db, api):
    """The answer is DRF's own, and the key stays free."""
    assert ask(api, b"a,b", "text/csv", "/reading/").status_code == 415
    assert_untouched(redis_db)


# Route and headers


@pytest.mark.parametrize(
    ("first", "other", "same"),
    [
        ("?a=1&b=2", "?b=2&a=1", True),
        ("?a=%31", "?a=1", True),
        ("", "?", True),
        ("?a=1", "?a=2", False),
        ("?a=1", "", False),
        ("?a=", "", False),
        ("?a=1&a=2", "?a=2&a=1", False),
        ("?a=1&b=2", "?a=1%26b=2", False),
        ("?ab=c", "?a=bc", False),
    ],
)
@pytest.mark.parametrize("url", ["/bookings/", "/lenient/"])
def test_the_query_counts_by_name_and_value_in_every_mode(redis_db, api, url, first, other, same):
    """Names may come in another order; the values of one name may not."""
    ask(api, b"{}", url=url + first)
    again = ask(api, b"{}", url=url + other)
    assert replayed(again) is same
    assert again.status_code == (201 if same else 409)


def test_headers_of_one_attempt_do_not_count(redis_db, api):
    """A retry has another trace, another user agent and another date."""
    traced = [
        {
            "traceparent": f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333{n}-01",
            "tracestate": f"vendor={n}",
            "X-Request-Id": str(n),
            "Date": f"Tue, 01 Jan 2030 00:00:0{n} GMT",
            "User-Agent": f"agent/{n}",
        }
        for n in range(2)
    ]
    ask(api, b"{}", headers=traced[0])
    assert replayed(ask(api, b"{}", headers=traced[1]))
