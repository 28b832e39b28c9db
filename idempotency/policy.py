"""What an operation promises: one frozen value, resolved against the settings per request."""

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from idempotency.conf import Duration, conf, seconds

Mismatch = Literal["strict", "lenient"]
InFlightMode = Literal["wait", "reject"]
Mode = Literal["enforce", "observe"]
Execution = Literal["atomic", "leased", "job"]
OnAbandoned = Literal["retry", "hold"]

#: Statuses that ask for the same request again: remembering one would lock its sender out.
RETRY_STATUSES = frozenset({401, 408, 425, 429})

#: Seconds. A heartbeat renews each third of it, over a network that may take a moment.
SHORTEST_LEASE = 1.0

#: Named key formats; anything else is a regular expression for the whole key.
KEY_FORMATS = {
    "any": "",
    "uuid": r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
    "ulid": r"[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}",
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What an operation promises. `None` means the setting of that name, read per request.

    Durations are timedeltas, or seconds as int or float; they are kept as timedeltas.
    Raises ValueError or TypeError, naming the field, when it is made.
    """

    #: Refuse requests without a key (400).
    required: bool | None = None
    #: A known key with another body: "strict" refuses, "lenient" replays.
    mismatch: Mismatch | None = None
    #: A duplicate of a running request: "wait" for its reply, or "reject" with 409.
    in_flight: InFlightMode | None = None
    #: Longest wait of such a duplicate.
    wait_timeout: Duration | None = None
    #: How long a reply is replayed, counted from the finish. 7 to 30 days where money moves.
    ttl: Duration | None = None
    #: How long after that the key is still refused, so that a late retry never looks new.
    tombstone: Duration | None = None
    #: "any", "uuid", "ulid", or a regular expression for the whole key.
    key_format: str | None = None
    #: "enforce", or "observe": run everything, count what would have been deduplicated.
    mode: Mode | None = None
    #: "atomic": all in one transaction. "leased": the claim commits first and is renewed while the
    #: handler runs, for calls to the outside world and long work. "job": the handler starts a job
    #: (`start_job`) that a Celery worker carries out.
    execution: Execution = "atomic"
    #: What becomes of a leased or job execution whose owner is gone: "retry" runs it again,
    #: "hold" leaves it to an operator, because what it did outside is not known.
    on_abandoned: OnAbandoned = "retry"
    #: How long a claim lasts without a sign of life; a heartbeat renews it each third of that.
    lease: Duration | None = None
    #: Statuses of raised errors that are kept and replayed; every other raised error is forgotten.
    remember_errors: AbstractSet[int] = frozenset()
    #: Top-level body fields that two requests under one key may differ in.
    ignore_fields: AbstractSet[str] = frozenset()
    #: The database alias of the business transaction; `None` asks the router.
    using: str | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        for name in ("wait_timeout", "ttl", "tombstone", "lease"):
            object.__setattr__(self, name, _duration(name, getattr(self, name)))
        if self.lease is not None and seconds(self.lease) < SHORTEST_LEASE:
            raise ValueError(
                f"Policy.lease must be at least {SHORTEST_LEASE} s: it has to outlast a renewal."
            )
        if self.on_abandoned == "hold" and self.execution == "atomic":
            raise ValueError(
                "Policy.on_abandoned='hold' needs execution='leased' or 'job': an atomic execution"
                " is undone as a whole and leaves nothing to hold."
            )
        for name in ("execution", "on_abandoned"):
            if getattr(self, name) is None:
                raise ValueError(f"Policy.{name} must not be None: no setting stands behind it.")
        if self.ttl is not None and seconds(self.ttl) <= 0:
            raise ValueError("Policy.ttl must be longer than zero: nothing could be replayed.")
        _check_choice("required", self.required, (True, False))
        _check_key_format(self.key_format)
        object.__setattr__(self, "remember_errors", _statuses(self.remember_errors))
        object.__setattr__(self, "ignore_fields", _names(self.ignore_fields))

    def resolve(self) -> "Terms":
        """This policy with the settings of this moment in the place of every `None`."""
        kept: tuple[int, Terms] | None = self.__dict__.get("_resolved")
        if kept is None or kept[0] != conf.generation:
            kept = (conf.generation, _resolve(self))
            object.__setattr__(self, "_resolved", kept)
        return kept[1]


@dataclass(frozen=True, slots=True)
class Terms:
    """A policy with nothing left open; durations in seconds."""

    required: bool
    mismatch: Mismatch
    in_flight: InFlightMode
    wait_timeout: float
    ttl: float
    tombstone: float
    key_format: str
    mode: Mode
    execution: Execution
    on_abandoned: OnAbandoned
    lease: float
    remember_errors: AbstractSet[int]
    ignore_fields: AbstractSet[str]

    def accepts(self, key: str) -> bool:
        """Whether the key is of the asked format."""
        if self.key_format == "any":
            return True
        return re.fullmatch(KEY_FORMATS.get(self.key_format, self.key_format), key) is not None

    @property
    def forgives_body(self) -> bool:
        """Whether another body under a known key is replayed."""
        return self.mismatch == "lenient"


_CHOICES: dict[str, tuple[str, ...]] = {
    "mismatch": get_args(Mismatch),
    "in_flight": get_args(InFlightMode),
    "mode": get_args(Mode),
    "execution": get_args(Execution),
    "on_abandoned": get_args(OnAbandoned),
}


def guessable(key_format: str) -> bool:
    """Whether keys of this format can be guessed by a stranger."""
    return key_format not in ("uuid", "ulid")


def _resolve(policy: Policy) -> Terms:
    def chosen(name: str) -> Any:
        value = getattr(policy, name)
        return getattr(conf, f"IDEMPOTENCY_{name.upper()}") if value is None else value

    return Terms(
        required=chosen("required"),
        mismatch=chosen("mismatch"),
        in_flight=chosen("in_flight"),
        wait_timeout=seconds(chosen("wait_timeout")),
        ttl=seconds(chosen("ttl")),
        tombstone=seconds(chosen("tombstone")),
        key_format=chosen("key_format"),
        mode=chosen("mode"),
        execution=policy.execution,
        on_abandoned=policy.on_abandoned,
        lease=seconds(chosen("lease")),
        remember_errors=policy.remember_errors,
        ignore_fields=policy.ignore_fields,
    )


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value is not None and value not in choices:
        wanted = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"Policy.{name} must be one of {wanted} or None, not {value!r}.")


def _duration(name: str, value: Duration | None) -> timedelta | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise TypeError(f"Policy.{name} must be a timedelta or seconds, not {value!r}.")
    try:
        span = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"Policy.{name} is no duration, {value!r}: {error}.") from None
    if span < timedelta(0):
        raise ValueError(f"Policy.{name} must not be negative, it is {value!r}.")
    return span


def _check_key_format(value: Any) -> None:
    if value is None or value in KEY_FORMATS:
        return
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"Policy.key_format must be one of {', '.join(KEY_FORMATS)}"
            f" or a regular expression, not {value!r}."
        )
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"Policy.key_format {value!r} is no regular expression: {error}") from None


def _statuses(value: AbstractSet[int]) -> frozenset[int]:
    statuses = frozenset(_collection("remember_errors", value))
    for status in statuses:
        if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 499:
            raise ValueError(
                f"Policy.remember_errors holds statuses from 400 to 499, not {status!r}:"
                " a server error is always forgotten, so that the client may try again."
            )
        if status in RETRY_STATUSES:
            raise ValueError(
                f"Policy.remember_errors must not hold {status}: it asks the client to try again."
            )
    return statuses


def _names(value: AbstractSet[str]) -> frozenset[str]:
    names = frozenset(_collection("ignore_fields", value))
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"Policy.ignore_fields holds names of body fields, not {name!r}.")
    return names


def _collection(name: str, value: Any) -> Any:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise TypeError(f"Policy.{name} must be a set, not {value!r}.")
    return value
