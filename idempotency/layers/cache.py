"""The cache room: stored replies as signed bytes, in Redis through django-redis, or in LocMem.

Nothing that comes out of a cache is unpickled or believed: an entry is bound to its name by an
HMAC, and one that cannot be read is a miss.
"""

import hmac
import json
import struct
import time

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache

from idempotency.conf import conf
from idempotency.fingerprint import Fingerprint, derived_secrets
from idempotency.outcomes import Identity, StoredReply

#: The first byte of every entry; another layout takes another.
VERSION = b"\x01"
#: 16 bytes: what a forger would have to guess.
MAC_SIZE = 16


def seal(name: str, reply: StoredReply) -> bytes:
    """An entry: version, HMAC over name and content, then the content."""
    meta = [
        bytes(reply.fingerprint).hex(),
        None if reply.fingerprint.fields is None else dict(reply.fingerprint.fields),
        reply.status,
        reply.headers,
        reply.expires_at,
        reply.body is not None,
    ]
    head = json.dumps(meta, separators=(",", ":")).encode()
    content = struct.pack(">I", len(head)) + head + (reply.body or b"")
    return VERSION + _mac(_secrets()[0], name, content) + content


def unseal(name: str, entry: bytes) -> StoredReply | None:
    """The reply in an entry, or `None`: unreadable, foreign, tampered, moved or past its time."""
    mac, content = entry[1 : 1 + MAC_SIZE], entry[1 + MAC_SIZE :]
    if entry[:1] != VERSION or not any(
        hmac.compare_digest(mac, _mac(secret, name, content)) for secret in _secrets()
    ):
        return None
    end = 4 + struct.unpack_from(">I", content)[0]
    digests, fields, status, headers, expires_at, kept = json.loads(content[4:end])
    if expires_at <= time.time():
        return None  # a clock that is fast costs a look at the ledger, no more
    return StoredReply(
        Fingerprint.from_bytes(bytes.fromhex(digests), fields),
        status,
        tuple((header, value) for header, value in headers),
        content[end:] if kept else None,
        expires_at,
    )


def backend() -> BaseCache:
    """The cache that the rooms are in."""
    return caches[conf.IDEMPOTENCY_CACHE]


def name(cache: BaseCache, identity: Identity, room: str) -> str:
    """The full name of an identity's entry, lock or wake-up; the braces give them one hash slot."""
    short = f"{conf.IDEMPOTENCY_PREFIX}:{{{identity.digest}}}:{room}"
    make_key = cache.client.make_key if hasattr(cache, "client") else cache.make_key
    return str(make_key(short))


def _secrets() -> tuple[bytes, ...]:
    return derived_secrets("cache")


def _mac(secret: bytes, name: str, content: bytes) -> bytes:
    bound = name.encode()
    message = b"%d:%b%b" % (len(bound), bound, content)
    return hmac.digest(secret, message, "sha256")[:MAC_SIZE]
