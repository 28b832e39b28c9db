"""Responses to stored replies and back."""

from itertools import count

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import SimpleTemplateResponse
from hypothesis import given
from hypothesis import strategies as st

from idempotency import replies
from idempotency.fingerprint import Fingerprint
from idempotency.outcomes import Reply, StoredReply

#: Names and values that Django takes for a header.
names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)


def stored(reply: Reply) -> StoredReply:
    return StoredReply(
        Fingerprint(bytes(16), bytes(16)), reply.status, reply.headers, reply.body, expires_at=0.0
    )


@given(st.integers(200, 499), st.binary(max_size=500), st.dictionaries(names, values, max_size=5))
def test_what_was_captured_is_replayed(status, body, headers):
    """Status and bytes, and every header but those that are never stored."""
    response = HttpResponse(body, status=status, headers=headers)
    again = replies.replay(stored(replies.capture(response)))
    assert (again.status_code, again.content) == (status, body)
    kept = {n: v for n, v in response.items() if n.lower() not in replies.NOT_STORED}
    if "connection" not in {name.lower() for name in headers}:
        assert dict(again.items()) == kept | {"Idempotent-Replayed": "true"}


@pytest.mark.parametrize("name", sorted(replies.NOT_STORED))
def test_a_header_of_one_client_connection_or_moment_is_not_captured(name):
    """Whatever its case."""
    for spelling in (name, name.upper(), name.title()):
        response = HttpResponse(headers={spelling: "x", "X-Own": "y"})
        headers = replies.capture(response).headers
        assert [n for n, _ in headers] == ["X-Own", "Content-Type"]


def test_headers_that_connection_names_are_not_captured():
    headers = {"Connection": "close, X-Hop ,x-other", "X-Hop": "1", "X-Other": "2", "X-Own": "3"}
    captured = dict(replies.capture(HttpResponse(headers=headers)).headers)
    assert captured == {"X-Own": "3", "Content-Type": "text/html; charset=utf-8"}


def test_cookies_are_not_captured():
    response = HttpResponse()
    response.set_cookie("session", "secret")
    assert "secret" not in str(replies.capture(response))


def test_a_response_without_a_content_type_is_replayed_without_one():
    response = HttpResponse(status=204)
    del response["Content-Type"]
    assert "Content-Type" not in replies.replay(stored(replies.capture(response)))


@pytest.mark.parametrize(("limit", "kept"), [(100, True), (99, False)])
def test_headers_and_body_count_toward_the_limit_together(settings, limit, kept):
    settings.IDEMPOTENCY_MAX_BODY = limit
    response = HttpResponse(b"x" * 80, headers={"X": "y" * 19})
    del response["Content-Type"]
    reply = replies.capture(response)
    assert (reply.body is not None) is kept
    assert reply.status == 200
    assert bool(reply.headers) is kept


def test_a_reply_whose_body_was_not_kept_cannot_be_replayed():
    with pytest.raises(ValueError, match="not kept"):
        replies.replay(stored(Reply(201, (), None)))


@pytest.mark.parametrize("kind", [StreamingHttpResponse, FileResponse])
def test_a_streaming_response_is_a_configuration_error(kind):
    with pytest.raises(ImproperlyConfigured, match="streaming"):
        replies.capture(kind([b"a"]))


def test_an_observed_streaming_response_is_taken_without_its_body():
    """Observing refuses nothing, and reads nothing away."""
    response = StreamingHttpResponse([b"a"], status=206)
    assert replies.capture_if_possible(response) == Reply(206, (), None)
    assert response.getvalue() == b"a"
    assert replies.capture_if_possible(HttpResponse(b"a")).body == b"a"


def test_a_response_is_rendered_once():
    """A second render() is the first one's content."""
    template = engines["django"].from_string("{{ call }}")
    calls = count(1)
    response = SimpleTemplateResponse(template, {"call": lambda: next(calls)})
    assert replies.render(replies.render(response)) is response
    assert response.content == b"1"
    assert next(calls) == 2


def test_a_response_that_is_no_template_is_its_own_rendering():
    response = HttpResponse(b"a")
    assert replies.render(response) is response


@pytest.mark.parametrize(
    ("status", "failed"), [(200, False), (499, False), (500, True), (599, True)]
)
def test_which_statuses_say_that_the_server_failed(status, failed):
    assert replies.has_failed(HttpResponse(status=status)) is failed


def test_the_replayed_header_has_the_name_of_the_setting(settings):
    settings.IDEMPOTENCY_REPLAYED_HEADER = "X-Replayed"
    again = replies.replay(stored(Reply(201, (), b"")))
    assert again["X-Replayed"] == "true"
    assert "Idempotent-Replayed" not in again
