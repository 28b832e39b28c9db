"""The guards of cache and lock: what they say is never believed unproven."""

from typing import Final

from mutants.mutant import Edit, Mutant

_CACHE: Final = "idempotency/layers/cache.py"
_CONNECTION: Final = "idempotency/layers/connection.py"
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
        (
            Edit(
                _LOCK,
                "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end\nredis.call('DEL'",
                "redis.call('DEL'",
            ),
        ),
        (f"{_REDIS}::test_a_process_that_lost_its_lock_publishes_nothing",),
    ),
    Mutant(
        "entry-ends-before-its-record",
        "An entry is replayed when its record has expired already.",
        (Edit(_LOCK, "reply.expires_in - _MARGIN if", "reply.expires_in + 60 if"),),
        (f"{_REDIS}::test_no_entry_outlives_its_record",),
    ),
    Mutant(
        "dropped-with-its-lock",
        "A reply that an operator took away is published by the leader that was about to.",
        (Edit(_LOCK, "for name in (entry, lock)]", "for name in (entry,)]"),),
        ("tests/protocol/test_drop.py::test_whoever_has_the_lock_publishes_no_more",),
    ),
    Mutant(
        "breaker",
        "A Redis that hangs costs every request its time-outs.",
        (Edit(_LOCK, "if not found.breaker.allows():", "if False:"),),
        (f"{_REDIS}::test_hung_it_costs_its_time_outs_and_then_nothing",),
    ),
    Mutant(
        "one-probe",
        "After each pause, every thread waits for a time-out of a Redis that hangs.",
        (Edit("idempotency/layers/breaker.py", "self._closed_again = now + PAUSE\n", "pass\n"),),
        ("tests/test_breaker.py::test_of_all_who_come_after_a_pause_one_probes",),
    ),
    Mutant(
        "no-retries",
        "The retries of redis-py turn one time-out into many.",
        (
            Edit(
                _CONNECTION,
                'kwargs["retry"] = Retry(NoBackoff(), 0)',
                'kwargs["retry"] = Retry(NoBackoff(), 3)',
            ),
        ),
        ("tests/faults/test_answers.py::test_one_that_hangs_is_asked_once",),
    ),
    Mutant(
        "wait-within-the-time-out",
        "A waiter takes its own wait for a Redis that hangs, and opens the breaker for all.",
        (Edit(_LOCK, "min(limit, found.socket_timeout / 2)", "limit"),),
        (f"{_REDIS}::test_a_wait_ends_before_the_sockets_time_out",),
    ),
    Mutant(
        "old-wake-up",
        "The next one's waiters spin on the wake-up of the last.",
        (
            Edit(
                _LOCK,
                "redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])\nredis.call('DEL', KEYS[3])",
                "redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])",
            ),
        ),
        (f"{_REDIS}::test_who_takes_the_lock_takes_back_the_last_wake_up",),
    ),
    Mutant(
        "entry-past-its-end",
        "A Redis that forgets nothing has replies replayed for ever.",
        (Edit(_CACHE, "if expires_at <= time.time():", "if False:"),),
        (f"{_REDIS}::test_an_entry_past_its_end_is_a_miss",),
    ),
    Mutant(
        "mac-of-locks",
        "Whoever can write to Redis has valid requests refused for good.",
        (
            Edit(
                _LOCK,
                'not is_signed("lock", lock_name, told, proof, _MAC_SIZE)',
                "False",
            ),
        ),
        (f"{_REDIS}::test_a_forged_holder_is_not_believed",),
    ),
    Mutant(
        "ledger-before-the-locks-word",
        "A request that died has the corrected one refused, as long as its lock stands.",
        (
            Edit(
                _PROTOCOL,
                "if not _waits_first(operation, view, waiter):",
                "_other_holder(operation, view) and _refuse_or_wait(operation, view, waiter)\n"
                "                if not _waits_first(operation, view, waiter):",
            ),
        ),
        (f"{_REDIS}::test_a_dead_holder_of_another_payload_refuses_nobody",),
    ),
    Mutant(
        "locks-are-inherited",
        "Whoever runs in a dead one's place has its own duplicates refused as another's.",
        (
            Edit(
                _PROTOCOL,
                "    if isinstance(view, Busy):\n        return lock.inherit(",
                "    if False:\n        return lock.inherit(",
            ),
        ),
        (
            f"{_REDIS}::test_who_runs_in_a_dead_holders_place_is_who_the_lock_tells_of",
            f"{_REDIS}::test_a_dead_holders_lock_goes_to_who_runs_in_its_place",
        ),
    ),
    Mutant(
        "told-to-stop",
        "A consumer that waits does not hear its time limit, and opens the breaker instead.",
        (Edit(_LOCK, "except BROKEN as error:", "except Exception as error:"),),
        (f"{_REDIS}::test_a_waiter_that_is_told_to_stop_stops",),
    ),
    Mutant(
        "lock-before-entry",
        "A Redis that is full keeps the lock of everybody whom it lets in, until its time-out.",
        (
            Edit(
                _LOCK,
                "redis.call('DEL', KEYS[2], KEYS[3])\n"
                "if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end\n",
                "if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end\n"
                "redis.call('DEL', KEYS[2], KEYS[3])\n",
            ),
        ),
        (
            "tests/faults/test_redis_states.py::test_one_that_fills_up_meanwhile_gives_its_lock_back",
        ),
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
