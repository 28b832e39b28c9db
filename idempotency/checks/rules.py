"""What each IDEMPOTENCY_* setting must be, as data: type, range or choice."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.conf import settings

from idempotency.conf import seconds
from idempotency.keys import SCOPE_HEADER
from idempotency.policy import KEY_FORMATS, RETRY_STATUSES, SHORTEST_LEASE

#: Seconds. PostgreSQL's and Redis's milliseconds have 31 bits: 24 days.
_LONGEST_LOCK = 24 * 86400
#: Seconds; beyond a century, dates of the databases run out.
_LONGEST = 100 * 366 * 86400
#: Bytes of a Fernet key: half to sign, half to encrypt.
_FERNET_KEY = 32
#: Headers that reach Django without the HTTP_ in front, or that mean something else already.
_TAKEN = frozenset({"content-type", "content-length", SCOPE_HEADER.lower()})


@dataclass(frozen=True)
class Rule:
    """What one setting must be."""

    id: str
    name: str
    holds: Callable[[Any], bool]
    #: What the value must be.
    wanted: str
    hint: str
    #: Whether the value must not be shown.
    secret: bool = False


def _one_of(*choices: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in choices


def lasts(least: float, most: float = _LONGEST) -> Callable[[Any], bool]:
    """Whether a value is a duration within these seconds."""

    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
            return False
        # Compared before it is converted: an int may be too large for a float.
        return least <= (seconds(value) if isinstance(value, timedelta) else value) <= most

    return holds


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _key_format(value: Any) -> bool:
    if not isinstance(value, str) or not value:
        return False
    try:
        re.compile(KEY_FORMATS.get(value, value))
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _token(value: Any) -> bool:
    """Whether it can name a header (RFC 9110, section 5.6.2)."""
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value))


def _request_header(value: Any) -> bool:
    # Servers drop request headers with an underscore, because CGI could not tell it from a dash.
    return _token(value) and "_" not in value and value.lower() not in _TAKEN


def _prefix(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[!-z|~]+", value))


def _mismatch_status(value: Any) -> bool:
    return _whole(value) and 400 <= value <= 499 and value not in RETRY_STATUSES


def _cache_alias(value: Any) -> bool:
    caches: Any = settings.CACHES
    return isinstance(value, str) and isinstance(caches, dict) and value in caches


def fernet_keys(value: Any) -> list[bytes] | None:
    """The bytes of each key; `None` where it is no list of Fernet keys."""
    if not isinstance(value, list | tuple) or not value:
        return None
    if not all(isinstance(key, str | bytes) for key in value):
        return None
    try:
        keys = [base64.urlsafe_b64decode(key) for key in value]
    except ValueError:
        return None
    return keys if all(len(key) == _FERNET_KEY for key in keys) else None


_DURATION = "a timedelta or a number of seconds"

RULES: Final = (
    Rule(
        "idempotency.E001",
        "IDEMPOTENCY_REQUIRED",
        lambda value: isinstance(value, bool),
        "True or False",
        "True answers 400 to protected requests without a key.",
    ),
    Rule(
        "idempotency.E002",
        "IDEMPOTENCY_MISMATCH",
        _one_of("strict", "lenient"),
        '"strict" or "lenient"',
        "strict refuses a known key with another body; lenient replays.",
    ),
    Rule(
        "idempotency.E003",
        "IDEMPOTENCY_IN_FLIGHT",
        _one_of("wait", "reject"),
        '"wait" or "reject"',
        "A duplicate of a running request waits for its reply, or is rejected with 409.",
    ),
    Rule(
        "idempotency.E004",
        "IDEMPOTENCY_WAIT_TIMEOUT",
        lasts(0),
        f"{_DURATION}, not negative",
        "Ten seconds, timedelta(seconds=10), stay below the time-outs of proxies and clients.",
    ),
    Rule(
        "idempotency.E005",
        "IDEMPOTENCY_TTL",
        lasts(1),
        f"{_DURATION}, at least one second",
        "Say how long a reply is replayed: timedelta(hours=24), or days where money moves.",
    ),
    Rule(
        "idempotency.E006",
        "IDEMPOTENCY_TOMBSTONE",
        lasts(0),
        f"{_DURATION}, not negative",
        "Say how long an expired key is still refused: timedelta(hours=24).",
    ),
    Rule(
        "idempotency.E007",
        "IDEMPOTENCY_KEY_FORMAT",
        _key_format,
        '"any", "uuid", "ulid" or a regular expression that compiles',
        "A regular expression must match the whole key.",
    ),
    Rule(
        "idempotency.E008",
        "IDEMPOTENCY_KEY_SYNTAX",
        _one_of("lenient", "strict"),
        '"lenient" or "strict"',
        "strict takes keys in double quotes only (RFC 9651); lenient also bare tokens.",
    ),
    Rule(
        "idempotency.E009",
        "IDEMPOTENCY_MODE",
        _one_of("enforce", "observe"),
        '"enforce" or "observe"',
        "observe runs everything and only counts what would have been deduplicated.",
    ),
    Rule(
        "idempotency.E010",
        "IDEMPOTENCY_CACHE",
        _cache_alias,
        "an alias in CACHES",
        "Name a django-redis cache there, or remove the setting to use the default one.",
    ),
    Rule(
        "idempotency.E011",
        "IDEMPOTENCY_HEADER",
        _request_header,
        "the name of a request header, without underscores, that nothing else uses",
        'Use "Idempotency-Key" or, where clients send that already, "X-Idempotency-Key".',
    ),
    Rule(
        "idempotency.E012",
        "IDEMPOTENCY_REPLAYED_HEADER",
        _token,
        "the name of a response header",
        'Letters, digits and dashes, as in "Idempotent-Replayed".',
    ),
    Rule(
        "idempotency.E013",
        "IDEMPOTENCY_MISMATCH_STATUS",
        _mismatch_status,
        "a status from 400 to 499 that does not ask for the same request again",
        "Use 409, or 422 as in the IETF draft.",
    ),
    Rule(
        "idempotency.E014",
        "IDEMPOTENCY_LOCK_TIMEOUT",
        lasts(0.001, _LONGEST_LOCK),
        f"{_DURATION}, from a millisecond to 24 days",
        "Make it longer than a handler's longest silence inside its transaction: 60 seconds.",
    ),
    Rule(
        "idempotency.E015",
        "IDEMPOTENCY_MAX_WAITERS",
        _whole,
        "a whole number, 0 or more",
        "Fewer than the threads of a server process, so that a storm leaves some free.",
    ),
    Rule(
        "idempotency.E016",
        "IDEMPOTENCY_MAX_BODY",
        _whole,
        "a whole number of bytes, 0 or more",
        "Larger replies are not kept and not replayed: 1024 * 1024 is the default.",
    ),
    Rule(
        "idempotency.E017",
        "IDEMPOTENCY_PREFIX",
        _prefix,
        "a non-empty string of printable ASCII without spaces and braces",
        "Braces would choose the slot in a Redis cluster. Letters, digits and : will do.",
    ),
    Rule(
        "idempotency.E024",
        "IDEMPOTENCY_LEASE",
        lasts(SHORTEST_LEASE, _LONGEST_LOCK),
        f"{_DURATION}, from {SHORTEST_LEASE:g} second to 24 days",
        "It is renewed each third of that, and a crash costs all of it: 60 seconds.",
    ),
    Rule(
        "idempotency.E027",
        "IDEMPOTENCY_ENCRYPTION_KEYS",
        lambda value: fernet_keys(value) is not None,
        "a list of one or more Fernet keys",
        "Make one with cryptography.fernet.Fernet.generate_key(), and put a new one in front of"
        " those before; to store replies in the clear, remove the setting.",
        secret=True,
    ),
)
