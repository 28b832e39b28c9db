"""Fingerprints: what makes two payloads one request, under whose secret, and what is kept."""

import copy
import json
import math
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import QueryDict
from hypothesis import assume, given
from hypothesis import strategies as st

from idempotency.fingerprint import (
    DIGEST_SIZE,
    FIELD_DIGEST_SIZE,
    MAX_FIELD_NAME,
    MAX_FIELDS,
    Fingerprint,
    Mismatch,
    Payload,
    canonical,
    derived_secrets,
    payload,
)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(), json_values, max_size=6)


def request(body: Any = None, **changes: Any) -> Payload:
    """A POST to /bookings/ with this body."""
    asked = {"method": "POST", "path": "/bookings/", "query": ""} | changes
    return payload(body={} if body is None else body, **asked)


def differs(one: Payload, other: Payload, *, forgive_body: bool = False) -> Mismatch | None:
    return other.mismatch(one.detailed, forgive_body=forgive_body)


def reordered(value: Any) -> Any:
    """The same with the keys of every object the other way round."""
    if isinstance(value, dict):
        return {name: reordered(item) for name, item in reversed(value.items())}
    if isinstance(value, list):
        return [reordered(item) for item in value]
    return value


def typed(value: Any) -> Any:
    """Equal exactly where two JSON values are: 1, 1.0 and true are not, though Python says so."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if isinstance(value, float) and value == 0:
        return (type(value), math.copysign(1, value))
    return (type(value), value)


def spelt(value: Any) -> Any:
    """The JSON in a value's canonical form: what a forger would send in its place."""
    form = canonical(value)
    return json.loads(form[form.index(b"[") :])


# The body


@given(objects)
def test_the_order_of_keys_never_matters(body):
    """At any depth; nor does white space, which parsing has left behind."""
    assert differs(request(body), request(reordered(body))) is None
    assert differs(request(body), request(json.loads(json.dumps(body, indent=3)))) is None


@given(json_values, json_values)
def test_two_json_values_share_a_form_exactly_where_they_are_one_value(one, other):
    """Types count: 1, 1.0, "1" and true stay apart, as do null and nothing."""
    assert (canonical(one) == canonical(other)) is (typed(one) == typed(other))


@given(objects, st.text(), json_values)
def test_one_field_that_changes_is_a_mismatch_that_names_it(body, name, value):
    assume(len(name) <= MAX_FIELD_NAME)
    changed = copy.deepcopy(body) | {name: value}
    found = differs(request(body), request(changed))
    if name in body and typed(body[name]) == typed(value):
        assert found is None
    else:
        assert found == Mismatch((name,))


@pytest.mark.parametrize(
    "values",
    [
        (1, 1.0, "1", True, [1], {"1": 1}),
        (None, "", 0, False, [], {}, "null"),
        ({1: "a"}, {"1": "a"}),
        ({None: "a"}, {"null": "a"}, {"None": "a"}),
        ({True: "a"}, {"true": "a"}),
        ({1: "a", "b": 1}, {"1": "a", "b": 1}),
        (b"ab", "ab", bytearray(b"ac")),
        ({"a"}, ["a"], {"a", "b"}),
        (Decimal("1.0"), Decimal("1.00"), "1.0", 1.0),
        (date(2030, 1, 1), "2030-01-01", datetime(2030, 1, 1)),  # noqa: DTZ001 - a naive one
        (UUID(int=1), str(UUID(int=1))),
    ],
    ids=lambda values: repr(values[0]),
)
def test_types_stay_apart_beyond_json_too(values):
    """What YAML, MessagePack and forms parse to."""
    assert len({canonical(value) for value in values}) == len(values)


def test_sets_have_no_order():
    assert canonical({"a", "b", "c"}) == canonical({"c", "b", "a"})


def test_text_that_utf8_has_no_form_for_is_taken():
    """JSON may carry lone surrogates, in names and values."""
    assert differs(request({"\ud800": "\udfff"}), request({"\ud800": "\udfff"})) is None
    assert differs(request({"\ud800": 1}), request({"\ud801": 1})) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"{}", {}),
        (b"", {}),
        (QueryDict("a=1"), {"a": ["1"]}),
        (QueryDict("a=1"), {"a": "1"}),
        (
            {"file": SimpleUploadedFile("a", b"")},
            {"file": spelt(SimpleUploadedFile("a", b""))},
        ),
        ({"a": b"x"}, {"a": spelt(b"x")}),
    ],
    ids=["bytes", "no bytes", "form for list", "form for text", "file", "bytes in an object"],
)
def test_a_body_is_never_taken_for_one_that_spells_it(one, other):
    """What the view sees differs, so the requests do."""
    assert differs(request(one), request(other)) is not None


def test_a_file_counts_by_name_and_content_and_stays_readable():
    def upload(name: str = "list.txt", content: bytes = b"content") -> Payload:
        return request({"file": SimpleUploadedFile(name, content)})

    assert differs(upload(), upload()) is None
    assert differs(upload(), upload(content=b"other")) == Mismatch(("file",))
    assert differs(upload(), upload(name="other.txt")) == Mismatch(("file",))
    file = SimpleUploadedFile("list.txt", b"content")
    file.read()
    assert differs(upload(), request({"file": file})) is None
    assert file.read() == b"content"


def test_a_field_that_repeats_counts_by_all_its_values():
    one, other = QueryDict("a=1&a=2"), QueryDict("a=0&a=2")
    assert differs(request(one), request(other)) == Mismatch(("a",))


@pytest.mark.parametrize("body", [[], [1, 2], "text", 1, None, b"bytes", {1: 2}], ids=repr)
def test_a_body_without_named_fields_has_no_field_digests(body):
    """Then a mismatch names nothing."""
    made = payload(method="POST", path="/", query="", body=body)
    assert made.detailed.fields is None
    other = payload(method="POST", path="/", query="", body={"a": 1})
    assert other.mismatch(made.detailed, forgive_body=False) == Mismatch(None)


def test_ignored_fields_are_left_out_at_the_top_only():
    def ask(**body: Any) -> Payload:
        return request(body, ignore_fields={"sent_at"})

    assert differs(ask(a=1, sent_at=1), ask(a=1, sent_at=2)) is None
    assert differs(ask(a=1, sent_at=1), ask(a=1)) is None
    assert differs(ask(a={"sent_at": 1}), ask(a={"sent_at": 2})) == Mismatch(("a",))
    assert "sent_at" not in (ask(sent_at=1).detailed.fields or {})


# The route


@pytest.mark.parametrize("forgive_body", [False, True], ids=["strict", "lenient"])
@pytest.mark.parametrize(
    "change",
    [{"method": "PUT"}, {"path": "/bookings/1/"}, {"query": "a=1"}, {"path": "/bookings/?"}],
)
def test_another_route_differs_in_every_mode_and_names_no_field(change, forgive_body):
    one, other = request({"a": 1}), request({"a": 2}, **change)
    assert differs(one, other, forgive_body=forgive_body) == Mismatch(None)


@given(objects, objects)
def test_lenient_forgives_any_body(one, other):
    assert differs(request(one), request(other), forgive_body=True) is None


@given(st.permutations(["a=1", "b=2", "c=3", "a=4"]))
def test_query_names_come_in_any_order_and_values_of_one_name_do_not(pairs):
    ordered = [pair for pair in pairs if pair.startswith("a")] == ["a=1", "a=4"]
    found = differs(request(query="a=1&a=4&b=2&c=3"), request(query="&".join(pairs)))
    assert (found is None) is ordered


routes = st.tuples(
    st.sampled_from(["POST", "PUT", "POSTP"]),
    st.text("/ab:0123456789", max_size=4),
    st.lists(st.tuples(st.text("ab0:", min_size=1, max_size=3), st.text("ab0:", max_size=3))),
)


@given(routes, routes)
def test_no_two_routes_join_to_the_same_bytes(one, other):
    """Each part is length-prefixed: nothing moves from one to the next."""

    def normal(route: Any) -> Any:
        method, path, pairs = route
        return method, path, sorted(pairs, key=lambda pair: pair[0])

    def route(asked: Any) -> bytes:
        method, path, pairs = asked
        query = "&".join(f"{name}={value}" for name, value in pairs)
        return payload(method=method, path=path, query=query, body=b"").route

    assert (route(one) == route(other)) is (normal(one) == normal(other))


@given(st.binary(), st.binary())
def test_raw_bodies_share_a_form_exactly_where_they_are_equal(one, other):
    assert (request(one).body == request(other).body) is (one == other)


# Field digests


def named(payload):
    """The digests of a request's fields, by name."""
    return json.loads(payload.detailed.fields)


def test_a_mismatch_names_what_changed_went_and_came():
    found = differs(request({"a": 1, "b": 1, "c": 1}), request({"a": 1, "b": 2, "d": 1}))
    assert found == Mismatch(("b", "c", "d"))


def test_only_so_many_fields_have_a_digest():
    """A client must not size the record. What was cut off is not told as a difference."""
    many = {f"f{n:03}": n for n in range(MAX_FIELDS * 3)}
    assert len(named(request(many))) == MAX_FIELDS
    late = differs(request(many), request(many | {"f090": "other"}))
    assert late == Mismatch(None)
    early = differs(request(many), request(many | {"f001": "other", "f090": "other"}))
    assert early == Mismatch(("f001",))
    gone = {name: value for name, value in many.items() if name != "f001"}
    assert differs(request(many), request(gone)) == Mismatch(("f001",))
    assert differs(request(gone), request(many)) == Mismatch(("f001",))


def test_a_field_with_a_long_name_is_told_by_the_bodys_digest_only():
    longest, longer = "n" * MAX_FIELD_NAME, "n" * (MAX_FIELD_NAME + 1)
    made = request({longest: 1, longer: 1})
    assert list(named(made)) == [longest]
    assert differs(made, request({longest: 1, longer: 2})) == Mismatch(None)
    assert differs(made, request({longest: 2, longer: 2})) == Mismatch((longest,))


def test_equal_values_of_two_fields_do_not_show():
    """The digest binds the name: a record does not tell that two fields agree."""
    fields = named(request({"a": "x", "b": "x"}))
    assert fields["a"] != fields["b"]
    assert {len(bytes.fromhex(digest)) for digest in fields.values()} == {FIELD_DIGEST_SIZE}


def test_a_refusal_without_stored_fields_names_none():
    """The lock's token and the cache's entry have the fingerprint alone."""
    one, other = request({"a": 1}), request({"a": 2})
    assert other.mismatch(one.fingerprint, forgive_body=False) == Mismatch(None)


# Secrets


@pytest.fixture
def stored(settings) -> Fingerprint:
    settings.SECRET_KEY = "old"
    return request({"a": 1, "b": 1}).detailed


def test_the_digests_hang_on_the_secret_key(settings, stored):
    """No body can be guessed from a record by whoever lacks the key."""
    settings.SECRET_KEY = "new"
    fresh = request({"a": 1, "b": 1}).detailed
    assert fresh.route != stored.route
    assert fresh.body != stored.body
    assert json.loads(fresh.fields)["a"] != json.loads(stored.fields)["a"]


@pytest.mark.parametrize("secret", ["new", b"new"])
def test_a_rotated_key_still_knows_the_old_fingerprints(settings, stored, secret):
    """Same requests stay the same, and mismatches still name their fields."""
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = secret, ["older", "old"]
    assert request({"a": 1, "b": 1}).mismatch(stored, forgive_body=False) is None
    assert request({"a": 1, "b": 2}).mismatch(stored, forgive_body=False) == Mismatch(("b",))
    assert request({"b": 2}).mismatch(stored, forgive_body=True) is None
    elsewhere = request({"a": 1, "b": 1}, path="/elsewhere/")
    assert elsewhere.mismatch(stored, forgive_body=True) == Mismatch(None)


def test_without_the_old_key_a_known_request_is_refused_rather_than_run(settings, stored):
    settings.SECRET_KEY = "new"
    assert request({"a": 1, "b": 1}).mismatch(stored, forgive_body=True) == Mismatch(None)


def test_each_purpose_has_a_key_of_its_own(settings):
    """Fingerprints, entries and tokens cannot be passed off as each other."""
    settings.SECRET_KEY_FALLBACKS = ["old"]
    purposes = [derived_secrets(purpose) for purpose in ("fingerprint", "cache", "lock")]
    assert len({secret for secrets in purposes for secret in secrets}) == 6


# The value


def test_a_fingerprint_goes_to_bytes_and_back():
    made = request({"a": 1}).fingerprint
    assert len(bytes(made)) == 2 * DIGEST_SIZE
    assert Fingerprint.from_bytes(bytes(made)) == made
    assert Fingerprint.from_bytes(memoryview(bytes(made))) == made  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 31, 33])
def test_bytes_of_another_size_are_no_fingerprint(size):
    with pytest.raises(ValueError, match="32 bytes"):
        Fingerprint.from_bytes(bytes(size))


def test_a_payload_does_not_show_its_body():
    """Nothing of a request is printed into a log by accident."""
    assert "secret-value" not in repr(request({"a": "secret-value"}).detailed)
    assert "data" not in repr(request({"a": 1}))
