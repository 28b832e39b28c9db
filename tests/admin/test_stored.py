"""The stored reply on a record's page: for whom, and how it is made readable."""

import json
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.test import Client

from idempotency.admin import stored
from idempotency.layers import encryption
from tests.admin.looking import detail, response_of
from tests.factories import RecordFactory

pytestmark = pytest.mark.django_db

JSON = '[["Content-Type","application/json"]]'


@pytest.fixture
def reader(viewer: Client, may: Any) -> Client:
    may("view_stored_reply")
    return viewer


def shown(client: Client, body: bytes, headers: str = JSON) -> Any:
    record = RecordFactory.create(body=body, headers=headers)
    return response_of(client, record).context["reply"]


def test_it_takes_a_permission_of_its_own(viewer: Client, may: Any) -> None:
    record = RecordFactory.create(body=b'{"secret":1}', headers='[["Location","/secret/"]]')
    assert "secret" not in detail(viewer, record)
    may("view_stored_reply")
    page = detail(viewer, record)
    assert "201 Created" in page
    assert "<dt>Location</dt><dd>/secret/</dd>" in page
    assert "&quot;secret&quot;" in page


def test_json_is_indented(reader: Client) -> None:
    reply = shown(reader, '{"name":"Zoë","seats":[1,2]}'.encode())
    assert reply.kind == "json"
    assert reply.text == '{\n  "name": "Zoë",\n  "seats": [\n    1,\n    2\n  ]\n}'


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"1" * 5_000])
def test_what_is_no_json_that_can_be_read_is_shown_as_text(reader: Client, body: bytes) -> None:
    assert shown(reader, body).kind == "text"


def test_half_a_surrogate_pair_does_not_break_the_page(reader: Client) -> None:
    assert "\\ud800" in shown(reader, b'{"text":"\\ud800"}').text


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b"plain", "text/plain", "text"),
        ("Zoë".encode("latin-1"), "text/plain; charset=latin-1", "text"),
        ("Zoë".encode("latin-1"), "text/plain", "bytes"),
        (b"plain", "text/plain; charset=unheard-of", "bytes"),
        (b"\x89PNG\r\n", "image/png", "bytes"),
        (b"nul\0", "text/plain", "bytes"),
        (b'{"a":1}', "application/problem+json", "json"),
    ],
)
def test_the_body_is_what_it_says_and_can_be(
    reader: Client, body: bytes, content_type: str, kind: str
) -> None:
    reply = shown(reader, body, json.dumps([["Content-Type", content_type]]))
    assert (reply.kind, reply.size) == (kind, len(body))


def test_bytes_are_shown_by_their_first_ones(reader: Client) -> None:
    reply = shown(reader, bytes(range(250, 256)) * 100)
    assert reply.text.startswith("fa fb fc fd fe ff fa")
    assert len(bytes.fromhex(reply.text)) == stored.SHOWN_BYTES
    assert (reply.size, reply.is_cut) == (600, True)


def test_a_long_body_is_cut_on_the_page(reader: Client) -> None:
    reply = shown(reader, json.dumps(["x" * 50] * 1_000).encode())
    assert (reply.kind, len(reply.text), reply.is_cut) == ("json", stored.SHOWN_TEXT, True)
    longest = shown(reader, json.dumps("x" * stored.INDENTED).encode())
    assert (longest.kind, len(longest.text)) == ("text", stored.SHOWN_TEXT)


def test_nothing_in_a_reply_is_markup(reader: Client) -> None:
    headers = json.dumps([["Content-Type", "text/html"], ["X-<b>", "<script>1</script>"]])
    record = RecordFactory.create(body=b"<script>alert(1)</script></pre>", headers=headers)
    page = detail(reader, record)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&lt;/pre&gt;" in page
    assert "<script>" not in page
    assert "X-<b>" not in page


@pytest.mark.parametrize("traits", [{"not_kept": True}, {"tombstone": True}, {"unknown": True}])
def test_where_a_retry_gets_none_there_is_none(reader: Client, traits: dict[str, Any]) -> None:
    assert "There is none that a retry would get." in detail(reader, RecordFactory.create(**traits))


def test_an_encrypted_reply_is_read_where_a_key_opens_it(reader: Client, settings: Any) -> None:
    settings.IDEMPOTENCY_ENCRYPTION_KEYS = [Fernet.generate_key()]
    headers, body = encryption.seal_reply('[["X-Name","Ada"]]', b"{}")
    record = RecordFactory.create(headers=headers, body=body)
    assert "<dt>X-Name</dt><dd>Ada</dd>" in detail(reader, record)
    settings.IDEMPOTENCY_ENCRYPTION_KEYS = [Fernet.generate_key()]
    assert "Ada" not in detail(reader, record)


def test_an_empty_body_is_said_to_be_one(reader: Client) -> None:
    assert "It has no body." in detail(reader, RecordFactory.create(body=b"", headers="[]"))
