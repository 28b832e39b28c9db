"""The headers: the key, the scope that narrows it, and what a reply carries."""

import re
from typing import Any, Final

from idempotency.conf import conf
from idempotency.keys import (
    BARE_CHARACTER,
    MAX_KEY_LENGTH,
    QUOTED_CHARACTER,
    SCOPE_HEADER,
    format_key,
)
from idempotency.policy import KEY_FORMATS, Terms

_UUID: Final = "8e03978e-40d5-43e8-bc93-6894a57f9324"
#: Of the named formats; what fits a regular expression is for its project to say.
_EXAMPLES: Final = {"any": _UUID, "uuid": _UUID, "ulid": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}

#: What JavaScript, whose dialect a schema speaks, has no form for, or another.
_PYTHONIC: Final = re.compile(r"\(\?(?![:=!]|<[=!])|\\[AZ]|[*+?}]\+")

_KEY: Final = (
    "Makes this request safe to send again: with the same key and the same request, every retry"
    " gets the first reply, and nothing is done twice. Make a new key for each thing to be done."
)
_OBSERVED: Final = (
    "Duplicates are counted by this key, and for now nothing more: each request is carried out."
)
_SCOPE: Final = (
    "Sent by services that call on behalf of others, any value: equal keys under different scopes"
    " are different keys."
)
_REPLAYED: Final = "On a reply that was stored: the request was carried out earlier, and not again."

RETRY_AFTER: Final[dict[str, Any]] = {
    "schema": {"type": "integer", "minimum": 1},
    "description": "Seconds to let pass before the same request is sent again.",
}


def key(terms: Terms) -> dict[str, Any]:
    """The parameter that carries the key."""
    observed = terms.mode == "observe"
    parameter: dict[str, Any] = {
        "in": "header",
        "name": conf.IDEMPOTENCY_HEADER,
        "schema": _key_schema(terms.key_format),
        "description": _OBSERVED if observed else _KEY,
    }
    if terms.required and not observed:
        parameter["required"] = True
    if terms.key_format in _EXAMPLES:
        parameter["example"] = format_key(_EXAMPLES[terms.key_format], strict=_strict())
    elif "pattern" not in parameter["schema"]:
        parameter["description"] += f"\n\nIt matches `{terms.key_format}` (Python's dialect)."
    return parameter


def scope() -> dict[str, Any]:
    """The parameter that narrows the caller's keys."""
    return {
        "in": "header",
        "name": SCOPE_HEADER,
        "schema": {"type": "string"},
        "description": _SCOPE,
    }


def replayed() -> dict[str, dict[str, Any]]:
    """The header of a replay, by its name."""
    described = {"schema": {"type": "string", "enum": ["true"]}, "description": _REPLAYED}
    return {conf.IDEMPOTENCY_REPLAYED_HEADER: described}


def _strict() -> bool:
    return conf.IDEMPOTENCY_KEY_SYNTAX == "strict"


def _key_schema(key_format: str) -> dict[str, Any]:
    """One spelling of a key where one will do: bare, or quoted where nothing else is taken."""
    if key_format == "any":
        quoted = f'"{QUOTED_CHARACTER}{{1,{MAX_KEY_LENGTH}}}"'
        bare = f"{BARE_CHARACTER}{{1,{MAX_KEY_LENGTH}}}"
        return _matching(quoted if _strict() else f"(?:{bare}|{quoted})")
    if key_format == "uuid" and not _strict():
        return {"type": "string", "format": "uuid"}
    if _PYTHONIC.search(key_format):
        return {"type": "string"}
    pattern = f"(?:{KEY_FORMATS.get(key_format, key_format)})"
    if _strict():
        return _matching(f'"{pattern}"')
    # Only in quotes may a key hold a space, a comma or a semicolon.
    return _matching(pattern if key_format in KEY_FORMATS else f'"?{pattern}"?')


def _matching(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$"}
