"""The cache room: stored replies as signed bytes, in Redis through django-redis, or in LocMem.

Nothing that comes out of a cache is unpickled or believed: an entry is bound to its name by an
MAC, and one that cannot be read is a miss.
"""

import json
import struct
import threading
import time

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache

from idempotency.conf import conf
from idempotency.fingerprint import Fingerprint, is_signed, sign
from idempotency.layers import encryption
from idempotency.outcomes import Identity, StoredReply

#: The first byte of every entry; another layout takes another.
VERSION = b"\x01"
#: The same of an encrypted one.
SEALED_VERSION = b"\x02"
#: 16 bytes: what a forger would have to guess.
MAC_SIZE = 16


# Fingerprint, status, whether the body was kept, expiry, and the lengths of headers and fields;
# a length of NO_FIELDS says that there are none.
_HEAD = struct.Struct(">32sH?dII")
_NO_FIELDS = 0xFFFFFFFF


def seal(name: str, reply: StoredReply) -> bytes:
    """An entry: version, MAC over name and content, then the content."""
    headers = json.dumps(reply.headers, separators=(",", ":")).encode()
    fields = None if reply.fingerprint.fields is None else reply.fingerprint.fields.encode()
    head = _HEAD.pack(
        bytes(reply.fingerprint),
        reply.status,
        reply.body is not None,
        reply.expires_at,
        len(headers),
        _NO_FIELDS if fields is None else len(fields),
    )
    content = b"".join((head, headers, fields or b"", reply.body or b""))
    sealed = encryption.seal(content)
    if sealed is not None:
        return SEALED_VERSION + sign("cache", _sealed(name), sealed, MAC_SIZE) + sealed
    return VERSION + sign("cache", name, content, MAC_SIZE) + content


def unseal(name: str, entry: bytes) -> StoredReply | None:
    """The reply in an entry, or `None`: unreadable, foreign, tampered, moved or past its time."""
    version, proof, content = entry[:1], entry[1 : 1 + MAC_SIZE], entry[1 + MAC_SIZE :]
    if version == SEALED_VERSION:
        name = _sealed(name)
    elif version != VERSION:
        return None
    if not is_signed("cache", name, content, proof, MAC_SIZE):
        return None
    if version == SEALED_VERSION:
        opened = encryption.unseal(content)
        if opened is None:  # under a key that is gone: the ledger says what is to be said
            return None
        content = opened
    digests, status, kept, expires_at, headers_size, fields_size = _HEAD.unpack_from(content)
    if expires_at <= time.time():
        return None  # a clock that is fast costs a look at the ledger, no more
    headers_end = _HEAD.size + headers_size
    body_start = headers_end + (0 if fields_size == _NO_FIELDS else fields_size)
    fields = None if fields_size == _NO_FIELDS else content[headers_end:body_start].decode()
    return StoredReply(
        Fingerprint.from_bytes(digests, fields),
        status,
        tuple(map(tuple, json.loads(content[_HEAD.size : headers_end].decode()))),
        content[body_start:] if kept else None,
        expires_at,
    )


def _sealed(name: str) -> str:
    """What the MAC of an encrypted entry names, so that none passes for a plain one."""
    return f"{encryption.SEALED}{name}"


_kept = threading.local()


def backend() -> BaseCache:
    """The cache that the rooms are in; Django has one for each thread, and so have we."""
    generation = conf.generation
    if getattr(_kept, "generation", None) != generation:
        _kept.cache = caches[conf.IDEMPOTENCY_CACHE]
        _kept.generation = generation
    cache: BaseCache = _kept.cache
    return cache


def name(cache: BaseCache, identity: Identity) -> str:
    """What the names of an identity's entry, lock and wake-up begin with.

    One `make_key`, and braces that give the three one hash slot.
    """
    short = f"{conf.IDEMPOTENCY_PREFIX}:{{{identity.digest}}}"
    make_key = cache.client.make_key if hasattr(cache, "client") else cache.make_key
    return str(make_key(short))
