"""The guards of executions: what commits is remembered, and what is undone is not."""

from typing import Final

from mutants.mutant import Edit, Mutant

_EXECUTION: Final = "idempotency/execution.py"
_LEASED: Final = "idempotency/leased.py"
_LINK: Final = "idempotency/layers/link.py"
_ATOMIC: Final = "tests/protocol/test_atomic.py"
_GUARDS: Final = "tests/protocol/test_guards.py"
_ABANDONED: Final = "tests/protocol/test_abandoned.py"
_RULES: Final = "tests/protocol/test_step_rules.py"
_STEPS: Final = "tests/protocol/test_steps.py"
_FORGOTTEN: Final = "tests/http/test_forgotten.py"
_REQUESTS: Final = "tests/http/test_atomic_requests.py"

MUTANTS: Final = (
    Mutant(
        "durable",
        "A success is published that an outer transaction rolls back afterwards.",
        (
            Edit(
                _EXECUTION,
                "transaction.atomic(using=using, durable=True),",
                "transaction.atomic(using=using),",
            ),
        ),
        (f"{_ATOMIC}::test_a_protected_action_refuses_to_run_inside_a_transaction",),
    ),
    Mutant(
        "durable-without-a-key",
        "An action behaves otherwise where a request has no key.",
        (
            Edit(
                "idempotency/protocol.py",
                "with transaction.atomic(using=using, durable=True):",
                "with transaction.atomic(using=using):",
            ),
        ),
        (f"{_GUARDS}::test_without_a_key_an_outer_transaction_is_refused_too",),
    ),
    Mutant(
        "durable-lease",
        "A lease is claimed in a transaction that nobody else sees, and goes with it.",
        (
            Edit(
                _LEASED,
                "with transaction.atomic(using=using, durable=True):",
                "with transaction.atomic(using=using):",
            ),
        ),
        (f"{_GUARDS}::test_inside_a_transaction_a_lease_is_not_even_claimed",),
    ),
    Mutant(
        "needs-rollback",
        "A handler that marks its work as undone gets a database error for its reply.",
        (Edit(_LINK, "if connection.needs_rollback:", "if False:"),),
        (f"{_ATOMIC}::test_a_marked_transaction_passes_its_reply_on_and_keeps_the_key_free",),
    ),
    Mutant(
        "needs-rollback-in-a-savepoint",
        "A success is stored, and replayed for a day, for work that was undone.",
        (Edit(_EXECUTION, "            why = undoing(response, using)", "            why = None"),),
        (f"{_FORGOTTEN}::test_a_success_that_was_rolled_back_is_never_replayed",),
    ),
    Mutant(
        "aborted-transaction",
        "A handler that has swallowed a database error gets another one from us.",
        (Edit(_LINK, "and bool(raw.info.transaction_status == _ABORTED)", "and False"),),
        (f"{_ATOMIC}::test_a_swallowed_database_error_keeps_the_key_free",),
    ),
    Mutant(
        "server-errors-are-forgotten",
        "A returned 500 is replayed for a day, and its half-done work stands.",
        (Edit(_EXECUTION, "if replies.has_failed(response):", "if False:"),),
        (f"{_ATOMIC}::test_a_returned_server_error_is_undone_and_forgotten",),
    ),
    Mutant(
        "unknown-outcome",
        "A commit whose answer was lost is reported as a failure, and the client begins anew.",
        (Edit(_EXECUTION, "if link.unreachable(error, using=using, before=before):", "if False:"),),
        (f"{_ATOMIC}::test_a_connection_lost_at_the_commit_is_an_unknown_outcome",),
    ),
    Mutant(
        "testcase-stays-usable",
        "An error in a protected action breaks the transaction of the project's TestCase.",
        (Edit("idempotency/views.py", "connection.needs_rollback = marked", "pass"),),
        (f"{_REQUESTS}::test_two_requests_with_a_raised_400_between_under_atomic_requests",),
    ),
    Mutant(
        "heartbeat",
        "A handler that runs longer than its lease is taken over while it works.",
        (
            Edit(
                "idempotency/heartbeat.py",
                "self.lost = not self._renew()",
                "self.lost = False",
            ),
        ),
        (f"{_ABANDONED}::test_a_handler_of_several_leases_keeps_its_key",),
    ),
    Mutant(
        "hold-on-exceptions",
        "A card that was charged before the time-out is charged again by the retry.",
        (Edit(_LEASED, "if candidate.holds and not certain:", "if False:"),),
        (f"{_ABANDONED}::test_hold_frees_the_key_only_where_the_handler_says_no",),
    ),
    Mutant(
        "unknown-is-no-refusal",
        "A child service that may have done its part is asked again under hold.",
        (Edit("idempotency/exceptions.py", "if isinstance(error, Unavailable):", "if False:"),),
        (f"{_ABANDONED}::test_hold_frees_the_key_only_where_the_handler_says_no",),
    ),
    Mutant(
        "own-end-is-no-loss",
        "Work that is committed is reported as lost, and its client told to send it again.",
        (
            Edit(
                "idempotency/current.py",
                "if self.work is not None and self.work.settled:",
                "if False:",
            ),
        ),
        ("tests/protocol/test_leased.py::test_a_hook_knows_the_token_however_long_it_takes",),
    ),
    Mutant(
        "hold-after-a-death",
        "What a dead owner may have done is done again without a human's word.",
        (
            Edit(_EXECUTION, "if verdict.held:", "if False:"),
            Edit(
                "idempotency/layers/statements.py",
                "AND lease_until <= {dialect.clock} AND NOT holds",
                "AND lease_until <= {dialect.clock}",
            ),
        ),
        (f"{_ABANDONED}::test_hold_leaves_a_dead_owners_key_to_an_operator",),
    ),
    Mutant(
        "fence-of-a-step",
        "Whoever was taken over commits one more step, beside its successor's.",
        (
            Edit(
                "idempotency/work.py",
                "if not leases.renew(self._claimed, lease, using=using):",
                "if False:",
            ),
        ),
        (f"{_STEPS}::test_the_fence_alone_stops_a_step",),
    ),
    Mutant(
        "idle-limit-of-a-lease",
        "The locks of a leased handler outlive its host.",
        (
            Edit(
                "idempotency/work.py",
                "link.limit_silence(longest, using=self._using)",
                "pass",
            ),
        ),
        ("tests/protocol/test_leased.py::test_locks_end_with_the_silence_of_whoever_has_them",),
    ),
    Mutant(
        "writes-belong-into-steps",
        "What a handler writes beside its steps is written again by the attempt that resumes it.",
        (Edit("idempotency/work.py", "if not self._inside and _writes(", "if False and _writes("),),
        (f"{_RULES}::test_a_write_outside_the_steps_is_refused_and_undone",),
    ),
    Mutant(
        "changed-steps",
        "A resumed attempt gives a step the result of another one.",
        (Edit("idempotency/work.py", "if kept.name != name:", "if False:"),),
        (f"{_RULES}::test_a_change_of_the_steps_is_reported_and_nothing_done",),
    ),
)
