"""Policies: validated when made, frozen, and resolved against the settings of the moment."""

from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest

from idempotency.policy import RETRY_STATUSES, SHORTEST_LEASE, Policy, guessable

UUID = "8e03978e-40d5-43e8-bc93-6894a57f9324"


# What is refused


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("required", "yes"),
        ("required", 2),
        ("mismatch", "loose"),
        ("mismatch", True),
        ("in_flight", "queue"),
        ("mode", "dry-run"),
        ("wait_timeout", -1),
        ("wait_timeout", "10"),
        ("wait_timeout", True),
        ("wait_timeout", float("nan")),
        ("ttl", 0),
        ("ttl", timedelta(seconds=-1)),
        ("ttl", "1 day"),
        ("ttl", float("inf")),
        ("tombstone", -0.5),
        ("key_format", ""),
        ("key_format", "("),
        ("key_format", 5),
        ("remember_errors", 402),
        ("remember_errors", "402"),
        ("remember_errors", {"402"}),
        ("remember_errors", {399}),
        ("remember_errors", {500}),
        ("remember_errors", {200, 402}),
        ("remember_errors", {True}),
        ("ignore_fields", "sent_at"),
        ("ignore_fields", {""}),
        ("ignore_fields", {1}),
        ("ignore_fields", None),
        ("execution", "celery"),
        ("execution", None),
        ("on_abandoned", "fail"),
        ("on_abandoned", None),
        ("lease", 0),
        ("lease", SHORTEST_LEASE - 0.001),
        ("lease", timedelta(seconds=-60)),
        ("lease", "60"),
        ("lease", True),
        ("lease", float("inf")),
    ],
)
def test_a_bad_value_is_refused_when_the_policy_is_made_and_names_its_field(field, value):
    with pytest.raises((ValueError, TypeError), match=rf"Policy\.{field}"):
        Policy(**{field: value})


@pytest.mark.parametrize("status", sorted(RETRY_STATUSES))
def test_an_error_that_asks_for_a_retry_cannot_be_remembered(status):
    """It would lock its sender out for a day."""
    with pytest.raises(ValueError, match=str(status)):
        Policy(remember_errors={402, status})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"execution": "celery"}, "one of 'atomic', 'leased', 'job'"),
        ({"on_abandoned": "fail"}, "one of 'retry', 'hold'"),
        ({"execution": None}, "no setting stands behind it"),
        ({"on_abandoned": None}, "no setting stands behind it"),
        ({"lease": 0.5}, "has to outlast a renewal"),
        ({"on_abandoned": "hold"}, "needs execution='leased' or 'job'"),
        ({"on_abandoned": "hold", "execution": "atomic"}, "needs execution='leased' or 'job'"),
    ],
    ids=str,
)
def test_the_message_says_what_would_do(values, message):
    with pytest.raises(ValueError, match=message):
        Policy(**values)


@pytest.mark.parametrize("execution", ["leased", "job"])
def test_what_leaves_something_behind_may_be_held(execution):
    terms = Policy(execution=execution, on_abandoned="hold").resolve()
    assert (terms.execution, terms.on_abandoned) == (execution, "hold")


def test_fields_are_given_by_name():
    with pytest.raises(TypeError):
        Policy(True)  # type: ignore[call-arg]


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError):
        Policy(requird=True)  # type: ignore[call-arg]


# What it is


def test_a_policy_is_frozen_and_hashable():
    """It is shared between requests, and resolved once."""
    policy = Policy(remember_errors={402}, ignore_fields={"sent_at"})
    with pytest.raises(FrozenInstanceError):
        policy.required = True  # type: ignore[misc]
    assert policy == Policy(remember_errors=frozenset({402}), ignore_fields=["sent_at"])  # type: ignore[arg-type]
    assert hash(policy) == hash(Policy(remember_errors={402}, ignore_fields={"sent_at"}))


def test_sets_are_copied():
    """The caller's set may change later; the policy does not."""
    statuses = {402}
    policy = Policy(remember_errors=statuses)
    statuses.add(409)
    assert policy.remember_errors == {402}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (90, timedelta(seconds=90)),
        (0.25, timedelta(milliseconds=250)),
        (timedelta(1), timedelta(1)),
    ],
)
@pytest.mark.parametrize("field", ["wait_timeout", "ttl", "tombstone"])
def test_durations_are_kept_as_timedeltas(field, given, kept):
    assert getattr(Policy(**{field: given}), field) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (SHORTEST_LEASE, timedelta(seconds=SHORTEST_LEASE)),
        (90, timedelta(seconds=90)),
        (timedelta(minutes=5), timedelta(minutes=5)),
    ],
)
def test_so_is_a_lease_that_is_long_enough(given, kept):
    assert Policy(lease=given).lease == kept


@pytest.mark.parametrize("field", ["wait_timeout", "tombstone"])
def test_no_wait_and_no_tombstone_are_possible(field):
    nothing: dict[str, Any] = {field: 0}
    assert getattr(Policy(**nothing), field) == timedelta(0)


# Resolved


def test_the_defaults():
    terms = Policy().resolve()
    assert (terms.required, terms.mismatch, terms.in_flight) == (False, "strict", "wait")
    assert (terms.wait_timeout, terms.ttl, terms.tombstone) == (10, 86400, 86400)
    assert (terms.key_format, terms.mode) == ("any", "enforce")
    assert (terms.remember_errors, terms.ignore_fields) == (frozenset(), frozenset())
    assert (terms.execution, terms.on_abandoned, terms.lease) == ("atomic", "retry", 60)


OTHER = {
    "required": True,
    "mismatch": "lenient",
    "in_flight": "reject",
    "wait_timeout": 1.5,
    "ttl": 7 * 86400,
    "tombstone": 60,
    "key_format": "uuid",
    "mode": "observe",
    "lease": 2.5,
}


@pytest.mark.parametrize(("field", "value"), OTHER.items(), ids=OTHER.keys())
def test_none_means_the_setting_of_the_moment(settings, field, value):
    """Read at each request: one policy, two settings."""
    policy = Policy()
    default = getattr(policy.resolve(), field)
    setattr(settings, f"IDEMPOTENCY_{field.upper()}", value)
    assert getattr(policy.resolve(), field) == value != default
    delattr(settings, f"IDEMPOTENCY_{field.upper()}")
    assert getattr(policy.resolve(), field) == default


@pytest.mark.parametrize(("field", "value"), OTHER.items(), ids=OTHER.keys())
def test_what_the_policy_says_outranks_the_setting(settings, field, value):
    """Also where it says the default, or False, or zero."""
    default = getattr(Policy().resolve(), field)
    setattr(settings, f"IDEMPOTENCY_{field.upper()}", value)
    assert getattr(Policy(**{field: default}).resolve(), field) == default


def test_durations_in_settings_may_be_seconds_or_timedeltas(settings):
    for value in (90, timedelta(seconds=90)):
        settings.IDEMPOTENCY_TTL = value
        assert Policy().resolve().ttl == 90


def test_zero_in_the_policy_is_not_none(settings):
    settings.IDEMPOTENCY_WAIT_TIMEOUT = 30
    assert Policy(wait_timeout=0).resolve().wait_timeout == 0


# Keys


@pytest.mark.parametrize(
    ("key_format", "key", "accepted"),
    [
        ("any", "x", True),
        ("uuid", UUID, True),
        ("uuid", UUID.upper(), True),
        ("uuid", "{" + UUID + "}", False),
        ("uuid", UUID + "\n", False),
        ("ulid", "01ARZ3NDEKTSV4RRFFQ69G5FAV", True),
        ("ulid", "01ARZ3NDEKTSV4RRFFQ69G5FAI", False),
        (r"[a-z]+", "abc", True),
        (r"[a-z]+", "abc1", False),
        (r"a|b", "ab", False),
        (r"uuid|x", "x", True),
    ],
)
def test_a_format_holds_for_the_whole_key(key_format, key, accepted):
    assert Policy(key_format=key_format).resolve().accepts(key) is accepted


@pytest.mark.parametrize(
    ("key_format", "can_be"),
    [("any", True), (r"order-\d+", True), ("uuid", False), ("ulid", False)],
)
def test_which_formats_can_be_guessed(key_format, can_be):
    assert guessable(key_format) is can_be


@pytest.mark.parametrize(("mismatch", "forgives"), [("strict", False), ("lenient", True)])
def test_lenient_forgives_the_body(mismatch, forgives):
    assert Policy(mismatch=mismatch).resolve().forgives_body is forgives
