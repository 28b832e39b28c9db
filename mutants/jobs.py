"""The guards of jobs: the outbox, the fence and the sweep."""

from typing import Final

from mutants.mutant import Edit, Mutant

_JOBS: Final = "idempotency/layers/jobs.py"
_LEASES: Final = "idempotency/layers/leases.py"
_RECOVERY: Final = "idempotency/recovery.py"
_WORKER: Final = "idempotency/worker.py"
_CONTRACT: Final = "tests/contracts/test_jobs.py"
_ENDINGS: Final = "tests/contracts/test_job_endings.py"
_START: Final = "tests/protocol/test_jobs.py::TestStart"
_SWEEP: Final = "tests/contracts/test_recovery.py"
_GUARDS: Final = "tests/protocol/test_guards.py"

MUTANTS: Final = (
    Mutant(
        "job-fence",
        "A worker that was taken over writes its effects beside its successor's.",
        # The end asks first, the finish asks again: each of them alone would stop it.
        (
            Edit(
                _WORKER,
                "if not leases.renew(begun.claimed, begun.order.lease, using=using):",
                "if False:",
            ),
            Edit(
                "idempotency/layers/statements.py",
                "WHERE {_MINE} AND state IN ('running', 'job')",
                "WHERE id = %(id)s",
            ),
        ),
        (f"{_CONTRACT}::TestFence::test_a_zombie_changes_nothing_however_it_ends",),
    ),
    Mutant(
        "job-fence-first",
        "The end of a job and its cancellation wait for each other until one is thrown out.",
        (
            Edit(
                _WORKER,
                "if not leases.renew(begun.claimed, begun.order.lease, using=using):",
                "if False:",
            ),
        ),
        (f"{_GUARDS}::test_who_ends_a_job_takes_its_record_first",),
    ),
    Mutant(
        "job-runs-once",
        "A message that is delivered twice has two workers do the job.",
        (Edit(_JOBS, "if job.status != JobStatus.QUEUED and (", "if False and ("),),
        (f"{_CONTRACT}::TestOnce::test_one_that_comes_while_the_job_runs_does_nothing",),
    ),
    Mutant(
        "needs-rollback-of-a-job",
        "A job is reported as done whose work it has itself marked as undone.",
        (Edit(_WORKER, "if link.doomed(using=using):", "if False:"),),
        (f"{_ENDINGS}::TestFailure::test_work_that_the_task_has_marked_as_undone",),
    ),
    Mutant(
        "message-after-the-commit",
        "A worker is sent for a job that is not there yet, or never will be.",
        (
            Edit(
                "idempotency/jobs.py",
                "execution.message = partial(_publish, job.id, name, using)",
                "execution.message = lambda: None\n    _publish(job.id, name, using)",
            ),
        ),
        (f"{_START}::test_claim_job_and_arguments_commit_together_and_the_message_after_them",),
    ),
    Mutant(
        "hold-on-exceptions-of-a-job",
        "A job that may have charged a card is reported as failed, and sent again under a new key.",
        (Edit(_WORKER, "unknown = begun.candidate.holds and not refused", "unknown = False"),),
        (f"{_ENDINGS}::TestHold::test_only_a_refusal_is_sure_that_nothing_happened",),
    ),
    Mutant(
        "outbox",
        "A job whose message was lost stays queued for ever.",
        (
            Edit(
                _RECOVERY,
                "            _send_later(publish, job.id, job.task, using)",
                "            pass",
            ),
        ),
        (f"{_SWEEP}::TestJobs::test_a_lost_message_is_sent_again",),
    ),
    Mutant(
        "sweep-spares-the-living",
        "The sweep takes the work away from every worker that is alive.",
        (
            Edit(
                _LEASES,
                "state__in=UNSETTLED, lease_until__lte=after(-ago))",
                "state__in=UNSETTLED)",
            ),
        ),
        (f"{_SWEEP}::TestJobs::test_what_may_be_alive_is_not_touched",),
    ),
    Mutant(
        "sweep-ends",
        "While a broker hangs, a sweep takes the same jobs again and again, and reaches no other.",
        (Edit(_LEASES, "lease_until__lte=after(-ago)", "lease_until__lte=after(0)"),),
        (f"{_SWEEP}::TestJobs::test_a_broker_that_hangs_does_not_keep_it_for_ever",),
    ),
    Mutant(
        "sweep-raises-the-token",
        "A worker that comes back after the sweep finishes a job that has been sent again.",
        (Edit(_LEASES, 'records.update(attempt=F("attempt") + 1, lease', "records.update(lease"),),
        (f"{_SWEEP}::TestJobs::test_a_zombie_of_before_the_sweep_changes_nothing",),
    ),
    Mutant(
        "attempts-end",
        "A job that kills its workers kills them for ever.",
        (
            Edit(_RECOVERY, "job.attempts >= jobs.MAX_ATTEMPTS)", "False)"),
            Edit(_JOBS, "or job.attempts >= MAX_ATTEMPTS", ""),
        ),
        (f"{_SWEEP}::TestJobs::test_one_that_is_lost_with_every_worker_fails",),
    ),
)
