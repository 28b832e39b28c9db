"""What a request asks for, as keyed digests: route and body, and a short digest a field.

No request body is stored: keyed BLAKE2b under a key derived from SECRET_KEY.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl

from django.utils.functional import cached_property

from idempotency.conf import conf

#: 16 bytes: 128 bits are beyond collision for as many requests as one key will ever see.
DIGEST_SIZE = 16
#: 4 bytes a field: enough to tell two values apart, too few to recover one.
FIELD_DIGEST_SIZE = 4
#: Fields with a digest of their own; a client must not size the record.
MAX_FIELDS = 32
#: Characters of a field's name; longer names are told by the body's digest only.
MAX_FIELD_NAME = 64


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Digests of one request: `route`, `body`, and where known each top-level field's."""

    route: bytes
    body: bytes
    #: Hex digests by field name, as JSON: read only to name the fields of a mismatch.
    #: `None` where the body has no named fields.
    fields: str | None = None

    def __bytes__(self) -> bytes:
        return self.route + self.body

    @classmethod
    def from_bytes(cls, value: bytes, fields: str | None = None) -> "Fingerprint":
        """Raises ValueError unless `value` has the length of two digests."""
        if len(value) != 2 * DIGEST_SIZE:
            raise ValueError(f"a fingerprint has {2 * DIGEST_SIZE} bytes, not {len(value)}")
        return cls(bytes(value[:DIGEST_SIZE]), bytes(value[DIGEST_SIZE:]), fields)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Two requests under one key differ, in these fields where they are known."""

    fields: tuple[str, ...] | None


@dataclass(frozen=True)
class Payload:
    """One request in canonical form, before a secret turns it into a fingerprint."""

    route: bytes
    body: bytes
    data: Mapping[str, Any] | None = field(default=None, repr=False)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Under the current secret, without the fields: what a replay needs."""
        return self._under(_secrets()[0])

    @property
    def detailed(self) -> Fingerprint:
        """The same with a digest of each field: what a record keeps."""
        fields = self._fields(_secrets()[0])
        return replace(self.fingerprint, fields=None if fields is None else _dump(fields))

    def mismatch(self, stored: Fingerprint, *, forgive_body: bool) -> Mismatch | None:
        """How the stored request differs from this one, under the current or an older secret."""
        secrets = _secrets()
        if self._same(self.fingerprint, stored, forgive_body):
            return None
        if any(self._same(self._under(old), stored, forgive_body) for old in secrets[1:]):
            return None
        for secret in secrets:
            if self._under(secret).route == stored.route:
                return Mismatch(_differing(self._fields(secret), stored.fields))
        return Mismatch(None)

    @staticmethod
    def _same(mine: Fingerprint, stored: Fingerprint, forgive_body: bool) -> bool:
        body = forgive_body or hmac.compare_digest(mine.body, stored.body)
        return body and hmac.compare_digest(mine.route, stored.route)

    def _under(self, secret: bytes) -> Fingerprint:
        return Fingerprint(
            _digest(secret, b"route", self.route), _digest(secret, b"body", self.body)
        )

    def _fields(self, secret: bytes) -> dict[str, str] | None:
        if self.data is None:
            return None
        names = sorted(name for name in self.data if len(name) <= MAX_FIELD_NAME)[:MAX_FIELDS]
        try:
            return {
                name: _digest(secret, _text(f"field:{name}"), canonical(self.data[name]))[
                    :FIELD_DIGEST_SIZE
                ].hex()
                for name in names
            }
        except RecursionError:  # the body's own digest was made with fewer calls on the stack
            return None


def payload(
    *, method: str, path: str, query: str, body: Any, ignore_fields: AbstractSet[str] = frozenset()
) -> Payload:
    """The canonical form of one request.

    `query` is the raw query string; the order of its names does not matter. `body` is what the
    view will see: bytes where nothing parses them, else mappings, lists, scalars and files, whose
    contents count. `ignore_fields` names top-level fields to leave out.
    """
    pairs = parse_qsl(query, keep_blank_values=True) if query else []
    pairs.sort(key=lambda pair: pair[0])
    route = _joined(_text(part) for part in (method, path, *chain.from_iterable(pairs)))
    if isinstance(body, bytes):
        return Payload(route, _joined((b"raw", body)))
    if isinstance(body, Mapping) and all(isinstance(name, str) for name in body):
        # A form's field may repeat; `body[name]` would hide all but its last value.
        is_form = hasattr(body, "getlist")
        read: Any = getattr(body, "getlist", body.__getitem__)
        data = {name: read(name) for name in body if name not in ignore_fields}
        return Payload(route, _joined((b"form" if is_form else b"parsed", canonical(data))), data)
    return Payload(route, _joined((b"parsed", canonical(body))))


def canonical(value: Any) -> bytes:
    """One form for equal values, another for unequal ones; types stay apart (1, 1.0, "1", true).

    JSON with sorted keys where JSON can say it; what parsers of other media types yield (bytes,
    dates, files, keys that are no text) is spelt out with the type of every value.
    """
    try:
        text = _dump(value)
        if json.loads(text) == value:
            return b"json" + text.encode()
    except (TypeError, ValueError):
        pass
    return b"typed" + _dump(_typed(value)).encode()


# Made once: `json.dumps` would make one for each call with options.
_dump = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _typed(value: Any) -> list[Any]:
    kind = type(value).__qualname__
    if isinstance(value, Mapping):
        items = [[_typed(name), _typed(item)] for name, item in value.items()]
        return ["mapping", sorted(items, key=_dump)]
    if isinstance(value, list | tuple):
        return ["list", [_typed(item) for item in value]]
    if isinstance(value, AbstractSet):
        return ["set", sorted((_typed(item) for item in value), key=_dump)]
    if isinstance(value, bytes | bytearray | memoryview):
        return ["bytes", bytes(value).hex()]
    if hasattr(value, "chunks"):  # an uploaded file
        return ["file", value.name, _file_digest(value)]
    return [kind, str(value)]


def _file_digest(upload: Any) -> str:
    upload.seek(0)
    digest = hashlib.sha256()
    for chunk in upload.chunks():
        digest.update(chunk)
    upload.seek(0)
    return digest.hexdigest()


def _differing(mine: dict[str, str] | None, text: str | None) -> tuple[str, ...] | None:
    if mine is None or text is None:
        return None
    stored: dict[str, str] = json.loads(text)
    # A full map was cut at its last name: beyond that, absence says nothing.
    ends = [max(known) for known in (mine, stored) if len(known) == MAX_FIELDS]
    names = sorted(
        name
        for name in {**mine, **stored}
        if mine.get(name) != stored.get(name) and all(name <= end for end in ends)
    )
    return tuple(_text(name).decode() for name in names) or None


def _text(value: str) -> bytes:
    # JSON may carry lone surrogates, which UTF-8 has no form for.
    return value.encode(errors="backslashreplace")


def _joined(parts: Iterable[bytes]) -> bytes:
    """Length-prefixed, so that no two lists of parts join to the same bytes."""
    return b"".join([b"%d:%b" % (len(part), part) for part in parts])


def _digest(secret: bytes, label: bytes, message: bytes) -> bytes:
    return mac(secret, _joined((label, message)), DIGEST_SIZE)


def mac(secret: bytes, message: bytes, size: int) -> bytes:
    """Keyed BLAKE2b (RFC 7693, section 2.9): as strong as HMAC-SHA256, at a fraction of its cost
    where OpenSSL looks the algorithm up at every call."""
    return hashlib.blake2b(message, key=secret, digest_size=size).digest()


def sign(purpose: str, name: str, content: bytes, size: int) -> bytes:
    """A MAC of so many bytes that binds content to its name, under the current secret."""
    return mac(derived_secrets(purpose)[0], _joined((name.encode(), content)), size)


def is_signed(purpose: str, name: str, content: bytes, proof: bytes, size: int) -> bool:
    """Whether `proof` is such a MAC, under the current or an older secret."""
    bound = _joined((name.encode(), content))
    for secret in derived_secrets(purpose):
        if hmac.compare_digest(proof, mac(secret, bound, size)):
            return True
    return False


def _secrets() -> tuple[bytes, ...]:
    return derived_secrets("fingerprint")


def derived_secrets(purpose: str) -> tuple[bytes, ...]:
    """One key for `purpose` from each of SECRET_KEY and SECRET_KEY_FALLBACKS, newest first."""
    return _derive(purpose, conf.secrets)


@lru_cache(maxsize=32)
def _derive(purpose: str, secrets: tuple[str | bytes, ...]) -> tuple[bytes, ...]:
    return tuple(
        hashlib.sha256(_joined((b"idempotency", purpose.encode(), _as_bytes(s)))).digest()
        for s in secrets
    )


def _as_bytes(secret: str | bytes) -> bytes:
    return secret if isinstance(secret, bytes) else secret.encode()
