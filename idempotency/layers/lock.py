"""The lock room, and through it the cache: who is on a key now, and is there a reply already?

One script enters (stored reply, or take the lock, or busy), one leaves (publish if the token is
still ours, release, wake the waiters). The lock is django-redis's `cache.lock`: same name, same
token, same time-out, so whatever else takes it is shut out. Its loss is harmless: the ledger
orders the crowd.
"""

import os
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeVar

from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.locmem import LocMemCache
from redis.exceptions import MaxConnectionsError, ResponseError

from idempotency import events
from idempotency.conf import conf, seconds
from idempotency.fingerprint import DIGEST_SIZE, Fingerprint, is_signed, sign
from idempotency.layers import cache as entries
from idempotency.layers.connection import BROKEN, Script, Server, server
from idempotency.outcomes import Busy, Held, Identity, Off, StoredReply

View = StoredReply | Held | Busy | Off
Result = TypeVar("Result")


# KEYS: entry, lock, wake-up. ARGV: token, lock's milliseconds, "1" to read the entry. Answers the
# entry, the owner in a list, or 1: what redis-py reads most cheaply comes most often.
_ENTER = Script("""
if ARGV[3] == '1' then
    local entry = redis.call('GET', KEYS[1])
    if entry then return entry end
end
local owner = redis.call('GET', KEYS[2])
if owner then return {owner} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
redis.call('DEL', KEYS[3])
return 1
""")

# KEYS: entry, lock, wake-up. ARGV: token, entry or '', its milliseconds.
# No token, no publish: a stopped process that resumes must not overwrite a newer reply. The lock
# goes first, for a server that is full may refuse the rest.
_LEAVE = Script("""
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2], KEYS[3])
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
redis.call('RPUSH', KEYS[3], '1')
redis.call('PEXPIRE', KEYS[3], 1000)
return 1
""")

# KEYS: as above. ARGV: the token that goes, the one that comes, its milliseconds.
_INHERIT = Script("""
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
""")

#: Bytes that make a token unique.
_NONCE_SIZE = 16
#: Bytes of the token's MAC: enough that garbage in the lock never passes for a fingerprint.
_MAC_SIZE = 8
#: Seconds; what rounds to at least a millisecond.
_SHORTEST_WAIT = 0.002
#: Seconds a waiter sleeps where its wait failed at once, so that it never spins.
_FAILED_WAIT = 0.05
#: Seconds an entry is published short of its end, so that no entry outlives its record.
_MARGIN = 1.0


def enter(identity: Identity, fingerprint: Fingerprint) -> View:
    """The stored reply, or the lock, or who has it, or that the rooms are off. One round trip.

    An entry that cannot be read costs one more, with reading switched off. Raises nothing.
    """
    cache = entries.backend()
    found = server(cache)
    if found is None:
        return _local_reply(cache, identity) or Off()
    keys = _names(cache, identity)
    token = _token(keys[1], fingerprint)
    timeout = _timeout()
    for reading in (b"1", b"0"):
        answer = _ask(found, partial(found.run, _ENTER, keys, token, timeout, reading))
        match answer:
            case None:
                return Off()
            case bytes(entry):
                reply = entries.unseal(keys[0], entry)
                if reply is not None:
                    return reply
            case [bytes(owner)]:
                return Busy(_owner(keys[1], owner), owner)
            case 1:
                return Held(token)
            case _:  # not our script's answer: whoever it is, it is no room of ours
                _report(ValueError("unknown answer"))
                return Off()
    return Off()


def inherit(identity: Identity, left: Busy, fingerprint: Fingerprint) -> Held | Busy:
    """The lock of a holder that does not have the key, as the ledger knows; or `left`, where the
    lock has moved on, or was no request's. One round trip. Raises nothing.
    """
    cache = entries.backend()
    found = server(cache)
    if found is None or left.fingerprint is None:
        return left
    keys = _names(cache, identity)
    token, timeout = _token(keys[1], fingerprint), _timeout()
    taken = _ask(found, partial(found.run, _INHERIT, keys, left.token, token, timeout))
    return Held(token) if taken == 1 else left


def leave(identity: Identity, view: View, reply: StoredReply | None) -> None:
    """Publish the reply, if there is one, release the lock and wake the waiters. One round trip.

    Does nothing where the lock is not ours any more. Raises nothing.
    """
    cache = entries.backend()
    found = server(cache)
    if found is None:
        if reply is not None and isinstance(cache, LocMemCache):
            entry_name = _names(cache, identity)[0]
            cache.set(entry_name, entries.seal(entry_name, reply), reply.expires_in)
        return
    if not isinstance(view, Held):
        return
    keys = _names(cache, identity)
    lasting = reply.expires_in - _MARGIN if reply is not None else 0.0
    entry = entries.seal(keys[0], reply) if reply is not None and lasting > 0 else b""
    _ask(found, partial(found.run, _LEAVE, keys, view.token, entry, _milliseconds(lasting)))


def wait(identity: Identity, limit: float) -> None:
    """Sleep until the holder leaves, at most `limit` seconds. Raises nothing."""
    cache = entries.backend()
    found = server(cache)
    if found is None:
        return
    # A blocking read must end before the socket's time-out does; Redis 6.2 takes less than a
    # millisecond for "for ever".
    limit = max(_SHORTEST_WAIT, min(limit, found.socket_timeout / 2))
    wake = _names(cache, identity)[2]
    # Moved onto itself, one token wakes every waiter in turn.
    client: Any = found.client  # redis-py's own annotation wants whole seconds
    woken = _ask(found, lambda: [client.blmove(wake, wake, limit, "LEFT", "RIGHT")])
    if woken is None:
        time.sleep(min(limit, _FAILED_WAIT))


def drop(identities: Collection[Identity]) -> bool:
    """Take away stored replies whose records are gone or have expired by an operator's verdict,
    after the commit. One round trip. Raises nothing.

    The locks go with them: who holds one may be about to publish a reply that the ledger no longer
    has, and publishes nothing without its token. False where a cache may still give replies out:
    it did not answer, or other processes have caches of their own.
    """
    cache = entries.backend()
    found = server(cache)
    names = [_names(cache, identity) for identity in identities]
    if not names or found is None:
        if not isinstance(cache, LocMemCache):
            return True
        cache.delete_many([entry for entry, _, _ in names])
        return not names
    client: Any = found.client
    gone = [name for entry, lock, _ in names for name in (entry, lock)]
    return _ask(found, lambda: [client.unlink(*gone)]) is not None


def _ask(found: Server, call: Callable[[], Result]) -> Result | None:
    """What the server answers, or `None` where it does not: here alone its failures end."""
    if not found.breaker.allows():
        return None
    try:
        answer = call()
    except MaxConnectionsError as error:  # a matter of our pool
        _report(error)
        return None
    except ResponseError as error:  # of this key, or of what it may: the server is there
        found.breaker.succeeded()
        _report(error)
        return None
    except BROKEN as error:
        opened = found.breaker.failed()
        _report(error)
        if opened:
            events.record(events.Event(events.CACHE_UNAVAILABLE, detail="breaker_open"))
        return None
    found.breaker.succeeded()
    return answer


def _report(error: Exception) -> None:
    events.record(events.Event(events.CACHE_UNAVAILABLE, detail=type(error).__name__))


def _timeout() -> bytes:
    return _milliseconds(seconds(conf.IDEMPOTENCY_LOCK_TIMEOUT))


def _milliseconds(duration: float) -> bytes:
    return b"%d" % (duration * 1000)


def _local_reply(cache: BaseCache, identity: Identity) -> StoredReply | None:
    """LocMem serves as the cache room: it is this process's own memory."""
    if not isinstance(cache, LocMemCache):
        return None
    entry_name = _names(cache, identity)[0]
    entry = cache.get(entry_name)
    return entries.unseal(entry_name, entry) if isinstance(entry, bytes) else None


def _names(cache: BaseCache, identity: Identity) -> list[str]:
    base = entries.name(cache, identity)
    return [f"{base}:reply", f"{base}:lock", f"{base}:wake"]


def _token(lock_name: str, fingerprint: Fingerprint) -> bytes:
    """Unique, and it tells the fingerprint, so that a mismatch is known while the first runs."""
    told = os.urandom(_NONCE_SIZE) + bytes(fingerprint)
    return told + sign("lock", lock_name, told, _MAC_SIZE)


def _owner(lock_name: str, token: bytes) -> Fingerprint | None:
    """The fingerprint in a token; `None` where somebody else's `cache.lock` is held."""
    told, proof = token[:-_MAC_SIZE], token[-_MAC_SIZE:]
    known = len(told) == _NONCE_SIZE + 2 * DIGEST_SIZE
    if not known or not is_signed("lock", lock_name, told, proof, _MAC_SIZE):
        return None
    return Fingerprint.from_bytes(told[_NONCE_SIZE:])
