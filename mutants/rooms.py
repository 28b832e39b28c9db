"""The guards of cache and lock: what they say is never believed unproven."""

from typing import Final

from mutants.mutant import Edit, Mutant

_CACHE: Final = "idempotency/layers/cache.py"
_LOCK: Final = "idempotency/layers/lock.py"
_DIGESTS: Final = "idempotency/fingerprint.py"
_PROTOCOL: Final = "idempotency/protocol.py"
_GUARDS: Final = "tests/protocol/test_guards.py"
_REDIS: Final = "tests/faults/test_redis.py"

MUTANTS: Final = (
    Mutant(
        "mac-of-entries",
        "Whoever can write to Redis makes up replies.",
        (Edit(_CACHE, 'not is_signed("cache", name, content, proof, MAC_SIZE)', "False"),),
        (f"{_REDIS}::test_another_keys_entry_is_a_miss",),
    ),
    Mutant(
        "mac-binds-the-name",
        "An entry that was moved to another name is another key's reply.",
        (
            Edit(_DIGESTS, "bound = _joined((name.encode(), content))", "bound = content"),
            Edit(_DIGESTS, "[0], _joined((name.encode(), content)), size)", "[0], content, size)"),
        ),
        (f"{_REDIS}::test_another_keys_entry_is_a_miss",),
    ),
    Mutant(
        "mac-has-a-secret",
        "Anybody can compute the MAC of an entry, and guess bodies from their digests.",
        (Edit(_DIGESTS, "message, key=secret, digest_size=size", "message, digest_size=size"),),
        ("tests/test_fingerprint.py::test_the_digests_hang_on_the_secret_key",),
    ),
    Mutant(
        "publish-token",
        "A process that was stopped past its lock's time-out overwrites a newer reply.",
        (Edit(_LOCK, "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end", ""),),
        (f"{_REDIS}::test_a_process_that_lost_its_lock_publishes_nothing",),
    ),
    Mutant(
        "entry-ends-before-its-record",
        "An entry is replayed when its record has expired already.",
        (Edit(_LOCK, "(reply.expires_in - _MARGIN) * 1000", "(reply.expires_in + 60) * 1000"),),
        (f"{_REDIS}::test_no_entry_outlives_its_record",),
    ),
    Mutant(
        "dropped-with-its-lock",
        "A reply that an operator took away is published by the leader that was about to.",
        (Edit(_LOCK, "client.delete(entry, lock)", "client.delete(entry)"),),
        ("tests/protocol/test_drop.py::test_whoever_has_the_lock_publishes_no_more",),
    ),
    Mutant(
        "breaker",
        "A Redis that hangs costs every request its time-outs.",
        (Edit(_LOCK, "if not found.breaker.allows():", "if False:"),),
        (f"{_REDIS}::test_hung_it_costs_its_time_outs_and_then_nothing",),
    ),
    Mutant(
        "no-publish-in-a-testcase",
        "A reply that is rolled back with its TestCase is replayed to the next test.",
        (Edit(_PROTOCOL, "link.in_transaction(using=operation.using)", "False"),),
        ("tests/http/test_atomic_requests.py::test_nothing_is_published_from_inside_a_test_case",),
    ),
    Mutant(
        "bounded-crowd",
        "A retry storm of one key eats all threads of a process.",
        (
            Edit(
                "idempotency/crowd.py",
                "if self._taken >= conf.IDEMPOTENCY_MAX_WAITERS:",
                "if False:",
            ),
        ),
        (f"{_GUARDS}::test_a_process_has_so_many_waiters_and_no_more",),
    ),
)
