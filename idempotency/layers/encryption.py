"""Encryption at rest, where IDEMPOTENCY_ENCRYPTION_KEYS is set: Fernet, in ledger and cache.

Encrypted is what a handler or a task has said: replies (body and headers together), a job's
arguments, result, error message and traceback, the results of steps, and cached entries.

Not encrypted is what the ledger has to search, compare or count by: scope and key, the parent's
key, the operation, task and step names, states, statuses, error codes, times and sizes, and the
names of a body's fields. Of request bodies there are only keyed digests in any case. Whoever puts
personal data into a key or a caller's name finds it there in the clear.

The first key encrypts, all decrypt. What was written before there were keys is still read, and
nothing is encrypted anew: a retired key is needed until the last record that was written under it
is past its `ttl` (its jobs and steps: past its tombstone). What no key opens is reported and
refused, and never run again; in the cache it is a miss. So a new key goes behind the first on all
processes before it goes in front of it on any.
"""

import base64
from typing import TYPE_CHECKING, Final, TypeGuard, TypeVar

from django.core.exceptions import ImproperlyConfigured

from idempotency import events
from idempotency.conf import conf

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

Content = TypeVar("Content")

#: What encrypted text begins with, and what stands for the headers of an encrypted reply: neither
#: JSON nor the empty headers of a purged one.
SEALED: Final = "fernet:"


def seal(content: bytes) -> bytes | None:
    """The content under the first key; `None` where there are no keys."""
    fernet = _fernet()
    # Without Fernet's base64, which is a third of its size and nothing that a database needs.
    return None if fernet is None else base64.urlsafe_b64decode(fernet.encrypt(content))


def unseal(sealed: bytes) -> bytes | None:
    """The content; `None` where no key opens it."""
    fernet = _fernet()
    if fernet is None:
        return None
    from cryptography.fernet import InvalidToken  # noqa: PLC0415 - optional

    try:
        return fernet.decrypt(base64.urlsafe_b64encode(sealed))
    except InvalidToken:
        return None


def seal_text(text: str) -> str:
    """The text as it is stored: unchanged where there are no keys."""
    sealed = seal(text.encode())
    return text if sealed is None else SEALED + base64.urlsafe_b64encode(sealed).decode()


def unseal_text(stored: str, what: str) -> str | None:
    """A text as it was written; `None`, and an event about `what`, where no key opens it."""
    if not is_sealed(stored):
        return stored
    try:
        content = unseal(base64.urlsafe_b64decode(stored.removeprefix(SEALED)))
    except ValueError:  # no base64: somebody else's text
        content = None
    return _reported(None if content is None else content.decode(), what)


def is_sealed(stored: str | None) -> TypeGuard[str]:
    """Whether it is a text that was encrypted."""
    return stored is not None and stored.startswith(SEALED)


def seal_reply(headers: str, body: bytes | None) -> tuple[str, bytes | None]:
    """Headers (as JSON) and body as they are stored. One that was not kept says nothing."""
    if body is None or _fernet() is None:
        return headers, body
    encoded = headers.encode()
    return SEALED, seal(b"%d:%b%b" % (len(encoded), encoded, body))


def unseal_reply(headers: str, body: bytes | None) -> tuple[str, bytes | None]:
    """Headers (as JSON) and body as they were; no body, and an event, where no key opens them."""
    if headers != SEALED or body is None:
        return headers, body
    content = _reported(unseal(body), "reply")
    if content is None:
        return "[]", None
    size, _, rest = content.partition(b":")
    return rest[: int(size)].decode(), rest[int(size) :]


def _reported(content: Content | None, what: str) -> Content | None:
    if content is None:
        events.record(events.Event(events.UNREADABLE, detail=what))
    return content


#: The generation of the settings that it was made for, and what it made of their keys.
_made: "tuple[int, MultiFernet | None]" = (0, None)


def _fernet() -> "MultiFernet | None":
    global _made  # noqa: PLW0603 - one a process; two threads that make it make the same
    generation = conf.generation
    if _made[0] != generation:
        _made = generation, _multi_fernet(conf.IDEMPOTENCY_ENCRYPTION_KEYS)
    return _made[1]


def _multi_fernet(keys: tuple[str | bytes, ...]) -> "MultiFernet | None":
    if not keys:
        return None
    try:
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 - optional
    except ImportError as error:
        raise ImproperlyConfigured(
            "IDEMPOTENCY_ENCRYPTION_KEYS needs the cryptography package:"
            " pip install django-idempotency-ledger[encryption]."
        ) from error
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        # Its own message would do, but its traceback shows the key.
        raise ImproperlyConfigured(
            "IDEMPOTENCY_ENCRYPTION_KEYS holds a key that is no Fernet key: make one with"
            " Fernet.generate_key()."
        ) from None
