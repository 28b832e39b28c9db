"""The guards of the ledger: claim, fence, leases and retention."""

from typing import Final

from mutants.mutant import Edit, Mutant

_STATEMENTS: Final = "idempotency/layers/statements.py"
_LEASES: Final = "idempotency/layers/leases.py"
_WINDOWS: Final = "idempotency/layers/windows.py"
_LEDGER: Final = "tests/contracts/test_ledger.py"
_CONTRACT: Final = "tests/contracts/test_leases.py"
_GUARDS: Final = "tests/protocol/test_guards.py"

MUTANTS: Final = (
    Mutant(
        "unique-constraint",
        "Two claims that pass every look at once both commit, and the effects are there twice.",
        # Unique together with the id, it is a constraint on nothing; and ON CONFLICT, which has to
        # name a constraint, is as good as gone without becoming an error of its own.
        (
            Edit(
                "idempotency/models.py", 'fields=["scope", "key"]', 'fields=["scope", "key", "id"]'
            ),
            Edit(
                "idempotency/migrations/0001_initial.py",
                'fields=("scope", "key")',
                'fields=("scope", "key", "id")',
            ),
            Edit(_STATEMENTS, "ON CONFLICT (scope, key)", "ON CONFLICT (scope, key, id)"),
        ),
        (
            f"{_GUARDS}::test_the_database_takes_no_second_record_of_a_key",
            f"{_LEDGER}::test_a_claim_that_commits_after_our_snapshot_is_caught_by_the_constraint",
        ),
    ),
    Mutant(
        "on-conflict",
        "A claim that commits after our snapshot is a database error instead of a replay.",
        (Edit(_STATEMENTS, " ON CONFLICT (scope, key) DO NOTHING RETURNING", " RETURNING"),),
        (f"{_LEDGER}::test_a_claim_that_commits_after_our_snapshot_is_caught_by_the_constraint",),
    ),
    Mutant(
        "not-exists",
        "A duplicate waits for whoever writes a settled record, a purge for instance.",
        (Edit(_STATEMENTS, "WHERE {_NAMED}){dialect.guard}", "WHERE false){dialect.guard}"),),
        (f"{_GUARDS}::test_a_claim_waits_for_nobody",),
    ),
    Mutant(
        "try-lock",
        "A duplicate waits inside a transaction for as long as the first one's handler runs.",
        (
            Edit(
                _STATEMENTS,
                "pg_try_advisory_xact_lock(%(identity64)s)",
                "pg_try_advisory_xact_lock(%(identity64)s) IS NOT NULL",
            ),
        ),
        (f"{_GUARDS}::test_a_claim_waits_for_nobody",),
    ),
    Mutant(
        "skip-locked",
        "A take-over waits for a zombie that is just finishing.",
        (Edit(_STATEMENTS, "FOR UPDATE SKIP LOCKED)", "FOR UPDATE)"),),
        (f"{_GUARDS}::test_a_take_over_waits_for_nobody",),
    ),
    Mutant(
        "idle-limit",
        "A host that vanishes in mid-transaction keeps its key, and the row's lock, for good.",
        (
            Edit(
                _STATEMENTS,
                "set_config('idle_in_transaction_session_timeout', %(silence_ms)s, true)",
                "coalesce(%(silence_ms)s, '')",
            ),
        ),
        (f"{_LEDGER}::test_the_idle_limit_ends_with_the_transaction",),
    ),
    Mutant(
        "idle-limit-of-the-transaction",
        "The limit stays on the connection, and PgBouncer hands it to somebody else.",
        (Edit(_STATEMENTS, "%(silence_ms)s, true)", "%(silence_ms)s, false)"),),
        (f"{_LEDGER}::test_the_idle_limit_ends_with_the_transaction",),
    ),
    Mutant(
        "fence-at-the-finish",
        "Whoever was taken over overwrites the reply of its successor.",
        (
            Edit(
                _STATEMENTS,
                "WHERE {_MINE} AND state IN ('running', 'job')",
                "WHERE id = %(id)s AND state IN ('running', 'job')",
            ),
        ),
        (
            f"{_LEDGER}::test_the_fence_holds_a_finish_that_is_no_longer_ours",
            f"{_GUARDS}::test_the_finish_of_a_job_asks_for_token_and_state_itself",
        ),
    ),
    Mutant(
        "state-at-the-finish",
        "Whoever was settled or called off overwrites the verdict.",
        (Edit(_STATEMENTS, "WHERE {_MINE} AND state IN ('running', 'job')", "WHERE {_MINE}"),),
        (
            f"{_LEDGER}::test_the_fence_holds_a_finish_that_is_no_longer_ours",
            f"{_GUARDS}::test_the_finish_of_a_job_asks_for_token_and_state_itself",
        ),
    ),
    Mutant(
        "fence-at-the-take-over",
        "Of two requests that found the same abandoned key both take over, and both run.",
        (
            Edit(
                _STATEMENTS,
                '{_MINE} AND {_free(dialect)}"\n    if',
                'id = %(id)s AND {_free(dialect)}"\n    if',
            ),
        ),
        (f"{_CONTRACT}::test_nothing_is_taken_over_that_has_changed_since_the_look",),
    ),
    Mutant(
        "free-at-the-take-over",
        "A key whose owner came back to life since the look is taken away from it.",
        (Edit(_STATEMENTS, 'free = f"{_MINE} AND {_free(dialect)}"', 'free = f"{_MINE}"'),),
        (f"{_CONTRACT}::test_nothing_is_taken_over_that_has_changed_since_the_look",),
    ),
    Mutant(
        "fence-of-a-lease",
        "Whoever was taken over renews, frees or holds its successor's key.",
        (Edit(_LEASES, "attempt=claimed.attempt, state__in", "state__in"),),
        (f"{_CONTRACT}::test_a_zombie_changes_nothing",),
    ),
    Mutant(
        "state-of-a-lease",
        "Whoever was settled or called off undoes the verdict when it ends.",
        (Edit(_LEASES, "attempt=claimed.attempt, state__in=UNSETTLED", "attempt=claimed.attempt"),),
        (f"{_CONTRACT}::test_a_zombie_changes_nothing",),
    ),
    Mutant(
        "token-rises-at-the-take-over",
        "The new owner has the token of the old one, and the fence tells them not apart.",
        (Edit(_STATEMENTS, '"attempt": "attempt + 1"', '"attempt": "attempt"'),),
        (f"{_CONTRACT}::test_the_token_never_goes_backwards",),
    ),
    Mutant(
        "token-rises-at-the-end-of-a-lease",
        "Whoever gave a key up may still finish it.",
        (
            Edit(
                _LEASES,
                'state=state,\n        attempt=F("attempt") + 1,',
                "state=state,",
            ),
        ),
        (f"{_CONTRACT}::test_leaving_keeps_the_row_for_its_token_and_raises_it",),
    ),
    Mutant(
        "token-rises-at-a-verdict",
        "Whoever was suspended overwrites what an operator has settled.",
        (Edit(_LEASES, 'records.update(\n        attempt=F("attempt") + 1,', "records.update("),),
        ("tests/protocol/test_settlement.py::test_every_verdict_raises_the_fencing_token",),
    ),
    Mutant(
        "lease",
        "A duplicate takes the key away from a request that is alive and at work.",
        (
            Edit(
                "idempotency/layers/ledger.py",
                "State.RUNNING if not lapsed:",
                "State.RUNNING if False:",
            ),
            Edit(_STATEMENTS, "AND lease_until <= {dialect.clock} AND NOT holds", "AND NOT holds"),
        ),
        (f"{_CONTRACT}::test_while_it_lasts_the_key_is_in_flight_and_tells_its_request",),
    ),
    Mutant(
        "clock-of-the-server",
        "An app host whose clock is fast sweeps away the leases of all others.",
        (
            Edit(
                _LEASES,
                "from typing import Final",
                "import datetime, time, typing\nFinal = typing.Final",
            ),
            Edit(
                _LEASES,
                "state__in=UNSETTLED, lease_until__lte=after(-ago))",
                "state__in=UNSETTLED, lease_until__lte="
                "datetime.datetime.fromtimestamp(time.time(), datetime.UTC))",
            ),
        ),
        (f"{_GUARDS}::test_the_sweep_asks_the_servers_clock",),
    ),
    Mutant(
        "tombstone",
        "A retry after the replay window looks new, and its work is done again.",
        (
            Edit(_STATEMENTS, "(purge_at <= {dialect.now} OR", "(expires_at <= {dialect.now} OR"),
            Edit(_STATEMENTS, '" purge_at <= {dialect.now}"', '" expires_at <= {dialect.now}"'),
        ),
        (
            "tests/protocol/test_atomic.py::test_an_expired_key_is_refused_until_its_tombstone_is_gone",
        ),
    ),
    Mutant(
        "forgets-nothing-alive",
        "An operator forgets a key while its owner is at work, and a retry does the work again.",
        (Edit("idempotency/layers/discard.py", ".filter(nobodys)", ".filter()"),),
        ("tests/contracts/test_verdicts.py::test_nothing_that_somebody_is_at_work_on_is_touched",),
    ),
    Mutant(
        "verdict-on-what-was-seen",
        "An operator's verdict meets another execution than the one that was looked at.",
        (Edit(_LEASES, "if attempt is not None:", "if False:"),),
        (
            "tests/contracts/test_verdicts.py::test_nothing_is_done_to_what_has_changed_or_is_unheard_of",
        ),
    ),
    Mutant(
        "purge-of-the-unsettled",
        "A leased key is forgotten while its owner is at work.",
        (Edit(_STATEMENTS, '"purge_at": "NULL"', '"purge_at": dialect.now'),),
        (f"{_CONTRACT}::test_while_it_lasts_the_key_is_in_flight_and_tells_its_request",),
    ),
    Mutant(
        "purge-waits-for-nobody",
        "A purge waits for a request, and all its batch's keys wait for the purge.",
        (Edit(_WINDOWS, "FOR UPDATE SKIP LOCKED)) AND", "FOR UPDATE)) AND"),),
        (f"{_GUARDS}::test_a_purge_waits_for_nobody",),
    ),
    Mutant(
        "purge-empties-tombstones-only",
        "A reply that should be replayed is gone, and the retry is refused.",
        (Edit(_WINDOWS, '"expires_at <= %(now)s AND (body', '"(body'),),
        (f"{_GUARDS}::test_a_purge_empties_no_reply_that_is_still_replayed",),
    ),
)
