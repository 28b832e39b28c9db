"""Dropping what the rooms in front of the ledger have of many keys at once."""

from collections.abc import Collection

from django.core.cache.backends.locmem import LocMemCache

from idempotency import events
from idempotency.layers import cache as entries
from idempotency.layers.connection import BROKEN, server
from idempotency.outcomes import Identity


def drop_many(identities: Collection[Identity]) -> bool:
    """Drop the cached replies of records that are gone, and their locks, so that whoever has read
    one of them a moment ago publishes it no more. One round trip. Raises nothing.

    False where replies may still be there: Redis did not do it, or each process has a cache of
    its own.
    """
    cache = entries.backend()
    found = server(cache)
    bases = [entries.name(cache, identity) for identity in identities]
    if isinstance(cache, LocMemCache):
        cache.delete_many([f"{base}:reply" for base in bases])
        return False
    if found is None:  # there are no rooms
        return True
    if not found.breaker.allows():
        return False
    try:
        with found.client.pipeline(transaction=False) as pipeline:
            for base in bases:
                pipeline.unlink(f"{base}:reply", f"{base}:lock")
            pipeline.execute()
    except BROKEN as error:
        found.breaker.failed()
        events.record(events.Event(events.CACHE_UNAVAILABLE, detail=type(error).__name__))
        return False
    found.breaker.succeeded()
    return True
