"""Idempotency keys: read from the header, written to it, handed on to other services.

Imports no Django, so that clients outside a project can use it.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

#: Characters of a decoded key: what an indexed column holds on every vendor.
MAX_KEY_LENGTH = 255

#: Characters of a raw header. A longest key with every character escaped takes 512, which
#: leaves ample room for parameters; anything longer is refused before it is looked at.
MAX_HEADER_LENGTH = 2048

#: Characters of a child's name: a digested parent, the name and a few more generations fit.
MAX_NAME_LENGTH = 64

#: Sent with a child key; the receiver narrows its caller's key space by it.
SCOPE_HEADER = "Idempotency-Scope"

#: One character of a bare key: printable ASCII without space, comma, double quote and semicolon.
BARE_CHARACTER = r"[!#-+\--:<-~]"
#: One character of a key in double quotes, as it is spelt (RFC 9651, section 3.3.3).
QUOTED_CHARACTER = r'(?:[ !#-\[\]-~]|\\["\\])'

_BARE = re.compile(f"{BARE_CHARACTER}+")

# The grammar of RFC 9651, section 3.3; each alternative begins with characters that no other
# begins with, or is tried before its shorter form, so that matching stays linear.
_STRING = f'"{QUOTED_CHARACTER}*"'
_STRING_ITEM = re.compile(_STRING)
_PARAMETER = re.compile(
    r""";[ ]*[a-z*][a-z0-9_\-.*]*
    (?:=(?:
        -?(?:[0-9]{1,12}\.[0-9]{1,3}|[0-9]{1,15})           # Decimal, Integer
        |"""
    + _STRING
    + r"""
        |[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*            # Token
        |:(?P<bytes>(?:[A-Za-z0-9+/]+={0,2})?):             # Byte Sequence
        |\?[01]                                             # Boolean
        |@-?[0-9]{1,15}                                     # Date
        |%"(?P<display>(?:[ !#$&-~]|%[0-9a-f]{2})*)"        # Display String
    ))?""",
    re.VERBOSE,
)

_NAME = re.compile(rf"[A-Za-z0-9_.~]{{1,{MAX_NAME_LENGTH}}}")
_DIGESTED = re.compile(r"sha256:[0-9a-f]{64}")

_REPEATED = "Send the header once, with one key; a key that holds a comma goes in double quotes."


class InvalidKey(ValueError):
    """The key, or the name of a child, is malformed.

    The message says what is wrong and what to do. It never quotes the key, so that it may be
    logged and sent to the client.
    """


def parse_key(header: str, *, strict: bool = False) -> str:
    r"""Return the key that a header's value spells, 1 to 255 characters of printable ASCII.

    Two spellings of one key are understood: a structured-field Item of type String, such as
    ``"8e03"`` (RFC 9651, sections 3.3.3 and 4.2), whose only escapes are ``\"`` and ``\\`` and
    whose parameters are checked and then ignored; and, unless `strict`, a bare token without
    comma, double quote, semicolon and space. Spaces around the value do not count.

    Raises InvalidKey for anything else, a header that was sent twice included: servers join
    the values with a comma.
    """
    if len(header) > MAX_HEADER_LENGTH:
        raise InvalidKey(
            f"The header is longer than {MAX_HEADER_LENGTH} characters."
            f" Send a key of at most {MAX_KEY_LENGTH}."
        )
    value = header.strip(" ")
    if value.startswith('"'):
        key = _parse_string_item(value)
    elif strict and value:
        raise InvalidKey("The key is not in double quotes. Send it as a structured-field string.")
    else:
        key = _parse_bare(value)
    _check_length(key)
    return key


def format_key(key: str, *, strict: bool = False) -> str:
    """Return the header value for a key: bare where it is a token, else quoted and escaped.

    With `strict` always quoted, for servers that understand nothing else.
    Raises InvalidKey unless the key has 1 to 255 characters, all of them printable ASCII.
    """
    _check_key(key)
    if not strict and _BARE.fullmatch(key):
        return key
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def derive_child_key(parent: str, name: str) -> str:
    """Return the key under which an execution of `parent` calls the service called `name`.

    It is ``{parent}-{name}``. A name has 1 to 64 characters out of ``A-Z a-z 0-9 _ . ~``; it
    holds no ``-``, so the last one splits the key again, and different pairs never share a
    child. Where that would be longer than 255 characters it is ``sha256:{digest}-{name}``, the
    digest being the parent's SHA-256 in hex. A parent that itself reads ``sha256:{digest}`` is
    digested as well, at any length: so no plain child can look like a digested one.
    A child may be a parent again, for any number of generations.

    Raises InvalidKey for a malformed parent or name.
    """
    _check_key(parent)
    if not _NAME.fullmatch(name):
        raise InvalidKey(
            f"A child's name has 1 to {MAX_NAME_LENGTH} characters out of A-Z a-z 0-9 _ . ~,"
            f" and no '-'; {name[: MAX_NAME_LENGTH + 1]!r} is not one."
        )
    plain = f"{parent}-{name}"
    if len(plain) <= MAX_KEY_LENGTH and not _DIGESTED.fullmatch(parent):
        return plain
    return f"sha256:{hashlib.sha256(parent.encode()).hexdigest()}-{name}"


def child_beginnings(parent: str) -> list[str]:
    """What stands before the dash and the name in keys that `derive_child_key` makes of a parent:
    the parent, its digest, or either where that depends on the name's length."""
    beginnings = [] if _DIGESTED.fullmatch(parent) else [parent]
    if not beginnings or len(parent) + 1 + MAX_NAME_LENGTH > MAX_KEY_LENGTH:
        beginnings.append(f"sha256:{hashlib.sha256(parent.encode()).hexdigest()}")
    return beginnings


@dataclass(frozen=True, slots=True)
class _Execution:
    key: str
    scope_digest: str


_execution: ContextVar[_Execution] = ContextVar("idempotency_execution")


@contextmanager
def running(key: str, scope_digest: str) -> Iterator[None]:
    """Name the execution that the block carries out; the one around it is back afterwards.

    It belongs to the context: other threads do not see it, unless they run in a copy of the
    context (`contextvars.copy_context().run`).
    """
    token = _execution.set(_Execution(key, scope_digest))
    try:
        yield
    finally:
        _execution.reset(token)


def current_key() -> str:
    """Return the decoded key of the running execution. LookupError where none runs."""
    return _current().key


def child_key(name: str) -> str:
    """Return the running execution's key for calling the service `name`: see derive_child_key.

    One name stands for one call: an execution that calls the same operation of a service twice
    needs two names (``billing.deposit``, ``billing.rest``).

    Raises LookupError where no execution runs, InvalidKey for a malformed name.
    """
    return derive_child_key(_current().key, name)


def current_scope_digest() -> str:
    """Return what a child call sends as Idempotency-Scope. LookupError where none runs.

    It stands for the running execution's scope, so that equal keys of two users do not meet at
    a service that knows only the calling service.
    """
    return _current().scope_digest


def _current() -> _Execution:
    try:
        return _execution.get()
    except LookupError:
        raise LookupError(
            "No execution under an idempotency key is running here. Ask inside a protected"
            " handler, for a request that carries a key, and in its own thread: another thread"
            " must run in contextvars.copy_context()."
        ) from None


def _parse_string_item(value: str) -> str:
    string = _STRING_ITEM.match(value)
    if string is None:
        raise InvalidKey(
            "The quoted key has no closing quote, a character other than printable ASCII, or a"
            ' backslash before something else than \\ or ". Escape those two and nothing else.'
        )
    at = string.end()
    while parameter := _PARAMETER.match(value, at):
        if not _decodes(parameter):
            break
        at = parameter.end()
    rest = value[at:]
    if rest.lstrip(" ").startswith(","):
        raise InvalidKey(f"There is more than one key. {_REPEATED}")
    if rest:
        raise InvalidKey(
            "Something that is no parameter follows the quoted key. Send the key alone."
        )
    return re.sub(r"\\(.)", r"\1", string[0][1:-1])


def _decodes(parameter: re.Match[str]) -> bool:
    """Whether the two types that a grammar cannot settle hold valid base64 or UTF-8."""
    if parameter["bytes"]:
        return len(parameter["bytes"].rstrip("=")) % 4 != 1
    if parameter["display"]:
        try:
            unquote_to_bytes(parameter["display"]).decode()
        except UnicodeDecodeError:
            return False
    return True


def _parse_bare(value: str) -> str:
    if "," in value:
        raise InvalidKey(f"There is a comma in the key, or more than one key. {_REPEATED}")
    if value and not _BARE.fullmatch(value):
        raise InvalidKey(
            "The key holds a space, quote, semicolon, or something else than printable ASCII."
            " Send a plain token such as a UUID, or put the key in double quotes."
        )
    return value


def _check_key(key: str) -> None:
    if not (key.isascii() and key.isprintable()):
        raise InvalidKey("The key holds something else than printable ASCII. Use a UUID.")
    _check_length(key)


def _check_length(key: str) -> None:
    if not key:
        raise InvalidKey("The key is empty. Send one of 1 to 255 characters, such as a UUID.")
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidKey(f"The key has {len(key)} characters. Send at most {MAX_KEY_LENGTH}.")
