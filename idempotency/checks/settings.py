"""Every IDEMPOTENCY_* setting, what it must agree with, and names that nothing reads."""

import reprlib
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - its own name

from idempotency.checks.rules import RULES, Rule, fernet_keys, lasts
from idempotency.conf import Settings, conf, seconds

_MISSING: Final = object()
_PREFIX: Final = "IDEMPOTENCY_"

#: Different bytes of a key's 32: a random one has fewer once in 10**16.
_DISTINCT: Final = 16

#: The settings that something reads.
KNOWN: Final = frozenset(name for name in vars(Settings) if name.startswith(_PREFIX))


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """The type and range of each, and names that are probably misspelt."""
    messages: list[CheckMessage] = [
        Error(
            f"{rule.name} must be {rule.wanted}{_instead(rule, value)}.",
            hint=rule.hint,
            id=rule.id,
        )
        for rule in RULES
        if (value := getattr(settings, rule.name, _MISSING)) is not _MISSING
        and not rule.holds(value)
    ]
    for name in sorted(dir(settings)):
        if name.startswith(_PREFIX) and name not in KNOWN:
            # The prefix, which all share, would make everything near.
            endings = sorted(known.removeprefix(_PREFIX) for known in KNOWN)
            near = get_close_matches(name.removeprefix(_PREFIX), endings, n=1)
            messages.append(
                Warning(
                    f"{name} is a setting that nothing reads.",
                    hint=f"Did you mean {_PREFIX}{near[0]}?" if near else "Remove it.",
                    id="idempotency.W001",
                )
            )
    return messages


def _instead(rule: Rule, value: Any) -> str:
    return "" if rule.secret else f", not {reprlib.repr(value)}"


def check_encryption(**kwargs: Any) -> list[CheckMessage]:
    """Whether IDEMPOTENCY_ENCRYPTION_KEYS can be used, and keeps anything secret."""
    keys = fernet_keys(getattr(settings, "IDEMPOTENCY_ENCRYPTION_KEYS", None))
    if keys is None:
        return []  # not set, or idempotency.E027
    messages: list[CheckMessage] = []
    if find_spec("cryptography") is None:
        messages.append(
            Error(
                "IDEMPOTENCY_ENCRYPTION_KEYS is set, and the cryptography package is missing: no"
                " protected request can be finished.",
                hint="pip install django-idempotency-ledger[encryption]",
                id="idempotency.E028",
            )
        )
    if any(len(set(key)) < _DISTINCT for key in keys):
        messages.append(
            Warning(
                "IDEMPOTENCY_ENCRYPTION_KEYS holds a key that can be guessed: most of its bytes"
                " are the same.",
                hint="Put one from cryptography.fernet.Fernet.generate_key() in front of it.",
                id="idempotency.W019",
            )
        )
    return messages


def check_surroundings(**kwargs: Any) -> list[CheckMessage]:
    """What settings must agree with: each other, and those of Django and its neighbours."""
    messages: list[CheckMessage] = []
    lock, wait = conf.IDEMPOTENCY_LOCK_TIMEOUT, conf.IDEMPOTENCY_WAIT_TIMEOUT
    if lasts(0)(lock) and lasts(0)(wait) and seconds(lock) < seconds(wait):
        messages.append(
            Warning(
                "IDEMPOTENCY_LOCK_TIMEOUT is shorter than IDEMPOTENCY_WAIT_TIMEOUT: a handler that"
                " a duplicate would still wait for has lost its transaction by then.",
                hint="Raise IDEMPOTENCY_LOCK_TIMEOUT, or lower IDEMPOTENCY_WAIT_TIMEOUT.",
                id="idempotency.W002",
            )
        )
    if not settings.USE_TZ:
        messages.append(
            Warning(
                "USE_TZ is False: records hold UTC, which MariaDB, MySQL and SQLite then show as"
                " local time in the admin.",
                hint="Set USE_TZ = True. What is replayed and purged is right in any case.",
                id="idempotency.W003",
            )
        )
    if apps.is_installed("corsheaders") and not _cors_allows_the_header():
        header = conf.IDEMPOTENCY_HEADER
        messages.append(
            Warning(
                f"CORS_ALLOW_HEADERS lacks {header} (IDEMPOTENCY_HEADER): browsers of other origins"
                " cannot send a key.",
                hint=f'Set CORS_ALLOW_HEADERS = [*default_headers, "{header.lower()}"].',
                id="idempotency.W004",
            )
        )
    if apps.is_installed("corsheaders") and (hidden := _cors_hides()):
        messages.append(
            Warning(
                f"CORS_EXPOSE_HEADERS lacks {' and '.join(hidden)}: scripts of other origins cannot"
                " tell a replay, or what is worth a retry.",
                hint="Name them in CORS_EXPOSE_HEADERS.",
                id="idempotency.W023",
            )
        )
    return messages


def _cors_allows_the_header() -> bool:
    # Without the setting, django-cors-headers allows a list of its own, which has no such header.
    if not isinstance(getattr(settings, "IDEMPOTENCY_HEADER", ""), str):
        return True  # idempotency.E011 says it
    return conf.IDEMPOTENCY_HEADER.lower() in _named("CORS_ALLOW_HEADERS")


def _cors_hides() -> list[str]:
    """What browsers keep from scripts of other origins."""
    exposed = _named("CORS_EXPOSE_HEADERS")
    wanted = (conf.IDEMPOTENCY_REPLAYED_HEADER, "Retry-After")
    return [name for name in wanted if name.lower() not in exposed]


def _named(setting: str) -> set[str]:
    """The headers, in lower case, that a setting of django-cors-headers names."""
    headers: Any = getattr(settings, setting, ())
    names = headers if isinstance(headers, list | tuple) else ()
    return {str(name).lower() for name in names}
