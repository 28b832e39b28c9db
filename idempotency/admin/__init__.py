"""Records, jobs and steps as operators see them; what changes them are verdicts and commands.

The tables may hold tens of millions of rows, and each further index would cost every insert. So a
question goes to an index that is there, takes at most LIMIT rows of its answer, and counts no
further.

Replies belong to the callers, and are shown to those who have a permission for it; arguments and
results are not shown. Whoever may view jobs sees their tracebacks. Each verdict has a permission of
its own and a confirmation, and leaves an entry in the admin's log.
"""

from idempotency.admin.jobs import JobAdmin
from idempotency.admin.records import IdempotencyRecordAdmin

__all__ = ["IdempotencyRecordAdmin", "JobAdmin"]
