"""A read-only look at records, jobs and steps; what changes them are commands.

The tables may hold tens of millions of rows, and each further index would cost every insert. So a
question goes to an index that is there, takes at most LIMIT rows of its answer, and counts no
further. Only the search for a key reads a whole index: (scope, key).

Replies, arguments and results belong to the callers, and are not shown. Whoever may view jobs sees
their tracebacks.
"""

from idempotency.admin.jobs import JobAdmin
from idempotency.admin.records import IdempotencyRecordAdmin

__all__ = ["IdempotencyRecordAdmin", "JobAdmin"]
