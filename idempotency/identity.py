"""Who asks for what: from a caller, an operation and a header to scope and key."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS

from idempotency.conf import conf
from idempotency.exceptions import KeyInvalid, KeyRequired
from idempotency.keys import InvalidKey, parse_key
from idempotency.outcomes import Identity
from idempotency.policy import Terms

#: Characters of an operation's name; the scope must hold caller and operation.
MAX_OPERATION = 128
#: Characters of a scope, as in the model.
MAX_SCOPE = 255

#: The caller's name where nobody was authenticated: strangers share it.
ANONYMOUS = "anon"

#: One character of an operation's name.
OPERATION_CHARACTER = "[A-Za-z0-9_.:~-]"
_OPERATION = re.compile(f"{OPERATION_CHARACTER}+")
_ASKED = re.compile(f"[A-Za-z0-9_.:~@%+-]+(?:/{OPERATION_CHARACTER}*)?")
#: DEL: a scope is printable ASCII.
_BEHIND_ALL = "\x7f"


def check_operation(name: str) -> str:
    """The name, if it can be part of a scope. Raises ValueError, saying what is wrong."""
    if not _OPERATION.fullmatch(str(name)) or len(name) > MAX_OPERATION:
        raise ValueError(
            f"An idempotency operation is 1 to {MAX_OPERATION} letters, digits and . _ : ~ -"
            f" (no slash: it ends the caller in the scope), not {name!r}."
        )
    return name


def read_key(header: str | None, terms: Terms) -> str | None:
    """The key in a request's header; `None` where there is none and none is needed.

    Raises KeyRequired or KeyInvalid.
    """
    if header is None:
        if terms.required:
            raise KeyRequired
        return None
    try:
        key = parse_key(header, strict=conf.IDEMPOTENCY_KEY_SYNTAX == "strict")
    except InvalidKey as error:
        raise KeyInvalid(f"{conf.IDEMPOTENCY_HEADER}: {error}") from None
    if not terms.accepts(key):
        wanted = terms.key_format if terms.key_format in ("uuid", "ulid") else "agreed"
        raise KeyInvalid(
            f"{conf.IDEMPOTENCY_HEADER}: the key is not of the {wanted} format that this"
            " operation asks for."
        )
    return key


def identify(
    caller: str, operation: str, narrowing: str | None, key: str, using: str = DEFAULT_DB_ALIAS
) -> Identity:
    """The identity of a request.

    `narrowing` is the Idempotency-Scope header: it is hashed and appended to the authenticated
    caller, never in its place, so it can only narrow and needs no trust. The caller is
    percent-encoded, which keeps `+` and `/` for us: no two callers and operations join to the
    same scope.
    """
    return Identity(_scope(caller, operation, narrowing), key, using)


@lru_cache(maxsize=1024)
def _scope(caller: str, operation: str, narrowing: str | None) -> str:
    name = quote(caller, safe=":@.")
    if narrowing is not None:
        name += narrowed(narrowing)
    scope = f"{name}/{operation}"
    if len(scope) > MAX_SCOPE:
        scope = f"{_digested(name)}/{operation}"
    return scope


def narrowed(narrowing: str) -> str:
    """What an Idempotency-Scope header appends to a caller's name in the scope."""
    return "+" + hashlib.sha256(narrowing.encode()).hexdigest()[:32]


def scopes_of(asked: str) -> tuple[tuple[str, str], ...]:
    """The scopes of a caller (`user:7`, with a slash behind it or not) or of one of its narrowed
    key spaces (`user:7+<digest>`), all operations together; or one scope (`user:7/shop.Pay.post`).

    Given as ranges, the first and the last of each. A caller has its narrowed spaces too, and ends
    where it ends: `user:7` is not `user:70`. Scopes that were too long are found by the digest that
    stands for their caller, except for narrowed ones of callers beyond 93 characters: their
    digest covers what narrows them. Raises ValueError for what no scope looks like.
    """
    if not _ASKED.fullmatch(asked):
        raise ValueError(
            "A scope is a caller as it is stored, percent-encoded, perhaps with a slash and an"
            f" operation behind it: 'user:7' or 'user:7/shop.Pay.post', not {asked!r}."
        )
    name, _, operation = asked.partition("/")
    if operation:
        scope = asked if len(asked) <= MAX_SCOPE else f"{_digested(name)}/{operation}"
        return ((scope, scope),)
    beginnings = [f"{name}/"]
    if "+" not in name:
        beginnings.append(f"{name}+")
    if len(name) + 1 + MAX_OPERATION > MAX_SCOPE:
        beginnings.append(f"{_digested(name)}/")
    return tuple((beginning, f"{beginning}{_BEHIND_ALL}") for beginning in sorted(beginnings))


def _digested(name: str) -> str:
    """What stands for a caller that is too long for a scope."""
    return f"+{hashlib.sha256(name.encode()).hexdigest()}"


@lru_cache(maxsize=8)
def header_name(header: str) -> str:
    """A header's name in `request.META`."""
    return "HTTP_" + header.upper().replace("-", "_")


def caller_of(user: Any, auth: Any) -> str:
    """A name for who was authenticated: `user:<pk>`, else one from `auth`, else `anon`.

    Users of another class than the project's user model are named with their class: a device and
    a person may have the same key. Models in `auth` are named by their key, tokens by their
    digest, claims by issuer and subject. Raises ImproperlyConfigured for anything else: a guess
    could give two callers one name.
    """
    authenticated = user is not None and user.is_authenticated
    if authenticated and user.pk is not None:
        kind = "user" if isinstance(user, _user_model(settings.AUTH_USER_MODEL)) else _kind(user)
        return f"{kind}:{user.pk}"
    if not authenticated and auth is None:
        return ANONYMOUS
    if getattr(auth, "pk", None) is not None and hasattr(auth, "_meta"):
        return f"auth:{auth._meta.label_lower}:{auth.pk}"
    if isinstance(auth, str | bytes):
        token = auth.encode() if isinstance(auth, str) else auth
        return f"auth:{hashlib.sha256(token).hexdigest()}"
    if isinstance(auth, Mapping) and auth.get("sub"):
        return f"auth:{json.dumps([auth.get('iss'), auth['sub']])}"
    raise ImproperlyConfigured(
        "An idempotent view cannot name this caller: the user has no primary key, and the request's"
        f" auth is {type(auth).__name__}. Override get_idempotency_caller(), or give"
        " idempotent_view a caller."
    )


@lru_cache(maxsize=1)
def _user_model(name: str) -> type:
    return get_user_model()


def _kind(user: Any) -> str:
    meta = getattr(user, "_meta", None)
    return str(meta.label_lower) if meta is not None else type(user).__qualname__


def parent_of(key: str, narrowing: str | None) -> str:
    """The parent's key, where a service sent this one as a child key with its scope."""
    parent, dash, _ = key.rpartition("-")
    return parent if narrowing is not None and dash else ""
