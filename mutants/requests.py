"""The guards between callers, and between requests under one key."""

from typing import Final

from mutants.mutant import Edit, Mutant

_IDENTITY: Final = "idempotency/identity.py"
_LOOKUP: Final = "idempotency/lookup.py"
_VIEWS: Final = "idempotency/views.py"
_CALLERS: Final = "tests/http/test_callers.py"
_LOOKS: Final = "tests/http/test_lookup.py"
_ATOMIC: Final = "tests/protocol/test_atomic.py"
_TABLE: Final = "tests/http/test_table.py"

MUTANTS: Final = (
    Mutant(
        "caller-in-the-scope",
        "A caller is handed another caller's reply.",
        (Edit(_IDENTITY, 'name = quote(caller, safe=":@.")', 'name = ""'),),
        (f"{_CALLERS}::test_two_users_with_one_key_are_two_executions",),
    ),
    Mutant(
        "caller-is-quoted",
        "A caller whose name holds a slash shares a scope with somebody else.",
        (Edit(_IDENTITY, 'name = quote(caller, safe=":@.")', "name = caller"),),
        (f"{_CALLERS}::test_callers_scopes_and_keys_never_join_to_another",),
    ),
    Mutant(
        "scope-only-narrows",
        "Whoever sends another's Idempotency-Scope is handed the other's replies.",
        (Edit(_IDENTITY, "name += narrowed(", "name = narrowed("),),
        (f"{_CALLERS}::test_a_scope_never_stands_in_for_the_caller",),
    ),
    Mutant(
        "jobs-are-their-owners",
        "Whoever knows a job's id reads its result.",
        (Edit(_LOOKUP, "if found.owner != self._identity(", "if not self._identity("),),
        (f"{_LOOKS}::test_other_callers_jobs_are_unknown",),
    ),
    Mutant(
        "strangers-look-nothing-up",
        "One stranger reads the outcome of another's key.",
        (Edit(_LOOKUP, "if caller == ANONYMOUS:", "if False:"),),
        (f"{_LOOKS}::test_strangers_share_a_scope_so_they_are_told_nothing",),
    ),
    Mutant(
        "operation-in-the-scope",
        "A key that was used for an enrollment is refused, or replayed, for a payment.",
        (Edit(_IDENTITY, 'scope = f"{name}/{operation}"\n', 'scope = f"{name}/"\n'),),
        (f"{_CALLERS}::test_two_operations_with_one_key_are_two_executions",),
    ),
    Mutant(
        "permissions-first",
        "Who has lost a permission, or its token, still gets the stored reply.",
        # They are checked ahead of the handler only, which a replay does not run.
        (
            Edit(
                _VIEWS,
                "super().initial(request, *args, **kwargs)\n",
                "ask = partial(super().initial, request, *args, **kwargs)\n"
                "        self._ask = ask if self._declared is not None else ask()\n",
            ),
            Edit(
                _VIEWS,
                "return finished(handler(",
                "self._ask()\n                return finished(handler(",
            ),
        ),
        (
            "tests/http/test_forgotten.py::test_a_stored_reply_is_gone_with_the_permission",
            "tests/http/test_forgotten.py::test_a_stored_reply_is_gone_with_the_token",
        ),
    ),
    Mutant(
        "fingerprint",
        "Another payload under a used key is answered with the reply of the first.",
        (Edit("idempotency/operation.py", "if mismatch is not None:", "if False:"),),
        (f"{_ATOMIC}::test_another_body_is_refused_with_the_fields_that_differ",),
    ),
    Mutant(
        "fingerprint-of-a-replay",
        "The same, for what is finished.",
        (Edit("idempotency/protocol.py", "operation.refuse_mismatch(stored.fingerprint)", "pass"),),
        (f"{_ATOMIC}::test_another_body_is_refused_with_the_fields_that_differ",),
    ),
    Mutant(
        "route-in-the-fingerprint",
        "A lenient policy answers a request for one course with the reply for another.",
        (
            Edit(
                "idempotency/fingerprint.py",
                "return body and hmac.compare_digest(mine.route, stored.route)",
                "return body",
            ),
        ),
        (f"{_ATOMIC}::test_lenient_forgives_the_body_and_never_the_path",),
    ),
    Mutant(
        "cookies-are-not-kept",
        "A replay hands out the session cookie of the first reply.",
        (Edit("idempotency/replies.py", '"set-cookie",', ""),),
        ("tests/http/test_replies.py::test_nothing_secret_of_a_reply_reaches_the_record",),
    ),
)
