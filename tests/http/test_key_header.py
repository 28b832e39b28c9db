"""The key as it arrives: both spellings, every malformed one, formats, and the header's name."""

import pytest
from django.urls import path
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.models import IdempotencyRecord
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.http.asking import Caller, assert_refused, assert_untouched, replayed

UUID = "8e03978e-40d5-43e8-bc93-6894a57f9324"
ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


class Bookings(IdempotencyMixin, APIView):
    def post(self, request):
        return Response({"id": Booking.objects.create(name="one").pk}, status=201)

    get = put = post


urlpatterns = [path("bookings/", Bookings.as_view())] + [
    path(f"{name}/", Bookings.as_view(idempotency_policy=Policy(key_format=asked)))
    for name, asked in {"uuid": "uuid", "ulid": "ulid", "orders": r"order-\d{4}"}.items()
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


# Spellings


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("abc", "abc"),
        ('"abc"', "abc"),
        ("  abc  ", "abc"),
        ('"abc";v=1;by="me"', "abc"),
        ('"a b,c;d"', "a b,c;d"),
        (r'"a\"b\\c"', r'a"b\c'),
        (r"a\b'c", r"a\b'c"),
        ("!#$%&()*+-./:<=>?@[]^_`{|}~", "!#$%&()*+-./:<=>?@[]^_`{|}~"),
        ("x" * 255, "x" * 255),
        ('"' + r"\"" * 255 + '"', '"' * 255),
    ],
    ids=[
        "bare",
        "quoted",
        "padded",
        "parameters",
        "separators in quotes",
        "escapes",
        "bare backslash",
        "every bare punctuation",
        "255 characters",
        "255 escaped",
    ],
)
def test_a_key_is_decoded(redis_db, api, header, key):
    """The record holds the decoded key."""
    assert api.ask("/bookings/", key=header).status_code == 201
    assert IdempotencyRecord.objects.get().key == key


@pytest.mark.parametrize("other", ['"abc"', '"abc";v=1', " abc "])
def test_two_spellings_are_one_key(redis_db, api, other):
    api.ask("/bookings/", key="abc")
    assert replayed(api.ask("/bookings/", key=other))


@pytest.mark.parametrize("other", ["ABC", "abc ", "abc.", '"abc "'])
def test_keys_compare_exactly(redis_db, api, other):
    """Case and inner spaces count; spaces around a header do not belong to the key."""
    api.ask("/bookings/", key="abc")
    assert replayed(api.ask("/bookings/", key=other)) is (other == "abc ")


MALFORMED = {
    "empty": "",
    "spaces": "   ",
    "empty string": '""',
    "repeated": "a,b",
    "repeated with space": "a, a",
    "repeated quoted": '"a", "b"',
    "repeated mixed": '"a",b',
    "256 characters": "x" * 256,
    "256 quoted": '"' + "x" * 256 + '"',
    "endless": "x" * 100_000,
    "space": "a b",
    "bare with parameter": "a;v=1",
    "bare quote": 'a"b',
    "no closing quote": '"abc',
    "escaped closing quote": r'"abc\"',
    "unknown escape": r'"a\nb"',
    "rest after the string": '"a"b',
    "malformed parameter": '"a";V=1',
    "null": "a\0b",
    "tab": "a\tb",
    "newline": "a\nb",
    "delete": "a\x7fb",
    "control in quotes": '"a\x01b"',
    "latin-1": "caf\xe9",
    "latin-1 in quotes": '"caf\xe9"',
    "utf-8 read as latin-1": "ключ".encode().decode("latin-1"),
}


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_key_is_refused_and_not_quoted_back(redis_db, api, header):
    """400; neither ledger nor Redis hears of it, and the handler never runs."""
    # As a server hands it over: the test client would refuse some of these itself.
    refused = api.post("/bookings/", HTTP_IDEMPOTENCY_KEY=header)
    assert_refused(refused, 400, "idempotency_key_invalid")
    assert_untouched(redis_db)
    assert not Booking.objects.exists()
    assert len(header.strip(' "')) < 4 or header.strip(' "') not in refused.json()["detail"]


def test_the_refusal_says_what_is_wrong(redis_db, api):
    detail = api.ask("/bookings/", key="a,b").json()["detail"]
    assert detail.startswith("Idempotency-Key: ")
    assert "comma" in detail


@pytest.mark.parametrize(
    ("header", "status"), [('"abc"', 201), ('"abc";v=1', 201), ("abc", 400), ("", 400)]
)
def test_strict_syntax_takes_structured_field_strings_only(redis_db, api, settings, header, status):
    settings.IDEMPOTENCY_KEY_SYNTAX = "strict"
    assert api.ask("/bookings/", key=header).status_code == status


# Formats


@pytest.mark.parametrize(
    ("asked", "key", "status"),
    [
        ("uuid", UUID, 201),
        ("uuid", UUID.upper(), 201),
        ("uuid", f'"{UUID}"', 201),
        ("uuid", UUID.replace("-", ""), 400),
        ("uuid", UUID + "0", 400),
        ("uuid", "x" + UUID, 400),
        ("ulid", ULID, 201),
        ("ulid", ULID.lower(), 201),
        ("ulid", "8" + ULID[1:], 400),
        ("ulid", ULID[:-1] + "U", 400),
        ("orders", "order-0001", 201),
        ("orders", "order-00011", 400),
        ("orders", "my-order-0001", 400),
    ],
)
@pytest.mark.parametrize("by", ["policy", "setting"])
def test_a_format_holds_for_the_whole_key(redis_db, api, settings, by, asked, key, status):
    if by == "setting":
        settings.IDEMPOTENCY_KEY_FORMAT = r"order-\d{4}" if asked == "orders" else asked
    url = f"/{asked}/" if by == "policy" else "/bookings/"
    response = api.ask(url, key=key)
    assert response.status_code == status
    if status == 400:
        assert_refused(response, 400, "idempotency_key_invalid")


# The header's name


def test_the_header_may_be_named_by_a_setting(redis_db, api, settings):
    settings.IDEMPOTENCY_HEADER = "X-Idempotency-Key"
    renamed = {"X-Idempotency-Key": "k-1"}
    assert not replayed(api.ask("/bookings/", key=None, headers=renamed))
    assert replayed(api.ask("/bookings/", key=None, headers=renamed))
    refused = api.ask("/bookings/", key=None, headers={"X-Idempotency-Key": "a b"})
    assert refused.json()["detail"].startswith("X-Idempotency-Key: ")


def test_a_header_of_the_old_name_is_no_key(redis_db, api, settings):
    settings.IDEMPOTENCY_HEADER = "X-Idempotency-Key"
    assert [replayed(api.ask("/bookings/", key="k-1")) for _ in range(2)] == [False, False]


# What is never touched


@pytest.mark.parametrize("method", ["get", "head", "options", "trace"])
def test_safe_methods_are_never_touched(redis_db, api, settings, method):
    """Not even by a malformed key, nor where keys are required."""
    settings.IDEMPOTENCY_REQUIRED = True
    caller = Caller()
    for key in ("a b", "k-1", "k-1"):
        response = caller.generic(method.upper(), "/bookings/", HTTP_IDEMPOTENCY_KEY=key)
        assert response.status_code == {"options": 200, "trace": 405}.get(method, 201)
        assert not replayed(response)
    assert_untouched(redis_db)


def test_an_unprotected_method_of_a_protected_view_is_not_touched(redis_db, api):
    """An APIView's default is POST; PUT runs twice."""
    assert [replayed(api.ask("/bookings/", method="put")) for _ in range(2)] == [False, False]
    assert_untouched(redis_db)
