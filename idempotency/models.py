"""The ledger's tables: one row a (scope, key), the only truth about who owns a key.

A record may have a job, which tells how far long-running work is, and the steps that are done.
"""

import uuid
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext_lazy as _

# Django's fields take type parameters in their stubs only.
if TYPE_CHECKING:
    _CharField = models.CharField[str, str]
else:
    _CharField = models.CharField


class ByteExactField(_CharField):
    """ASCII text that compares as bytes on every vendor.

    MariaDB and MySQL merge case and trailing spaces in their text types, so the column is binary
    there; PostgreSQL sorts it as bytes ("C"), which also lets a prefix search use the index.
    """

    def db_type(self, connection: BaseDatabaseWrapper) -> str | None:
        if connection.vendor == "mysql":
            return f"varbinary({self.max_length})"
        return super().db_type(connection)

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        parameters = super().db_parameters(connection)
        if connection.vendor == "postgresql":
            parameters["collation"] = "C"
        return parameters

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        return value.decode("ascii") if isinstance(value, bytes) else value


class State(models.TextChoices):
    """Where a record stands."""

    #: An execution has it: with a lease, or unseen by others in the claim's open transaction.
    RUNNING = "running", _("running")
    #: The reply is stored; whether it is still replayed is told by `expires_at`.
    FINISHED = "finished", _("finished")
    #: A job stands for it; the job's own row tells how far it is.
    JOB = "job", _("job")
    #: The execution failed and was undone: anybody may claim it. Only its token is remembered.
    RELEASED = "released", _("released")
    #: The execution ended or died without an outcome: the same request may take it over.
    ABANDONED = "abandoned", _("abandoned")
    #: What the execution did outside is not known: nobody runs it until an operator settles it.
    UNKNOWN = "unknown", _("outcome unknown")


class IdempotencyRecord(models.Model):
    """What became of one (scope, key). Written by the ledger only."""

    id = models.BigAutoField(primary_key=True)
    scope = ByteExactField(max_length=255)
    key = ByteExactField(max_length=255)
    operation = models.CharField(max_length=128)
    state = models.CharField(max_length=16, choices=State.choices, default=State.RUNNING)
    fingerprint = models.BinaryField(max_length=32)
    fields = models.TextField(null=True)  # noqa: DJ001 - NULL: the body has no named fields
    attempt = models.PositiveIntegerField(default=1)
    lease_until = models.DateTimeField(null=True)
    holds = models.BooleanField(default=False, db_default=False)
    status = models.PositiveSmallIntegerField(null=True)
    headers = models.TextField(default="")
    body = models.BinaryField(null=True)
    parent_key = models.CharField(max_length=255, default="", blank=True)
    #: About how often its reply was sent again: counted in memory, and added by and by.
    replays = models.PositiveIntegerField(default=0, db_default=0)
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    purge_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "idempotency_record"
        verbose_name = _("idempotency record")
        verbose_name_plural = _("idempotency records")
        constraints = [
            models.UniqueConstraint(fields=["scope", "key"], name="idempotency_scope_key"),
        ]
        indexes = [
            # The purge walks by it; `id` breaks ties, so that a walk never sees a row twice.
            models.Index(fields=["purge_at", "id"], name="idempotency_purge_at"),
            # The admin's search for a whole key, and its tree of parents and children. With the
            # scope, because PostgreSQL takes the smaller of two indexes: a claim would read the
            # records of all callers that use the same key.
            models.Index(fields=["key", "scope"], name="idempotency_key"),
        ]
        permissions = [
            ("view_stored_reply", _("Can view stored replies")),
            ("release_record", _("Can release abandoned keys")),
            ("settle_record", _("Can settle unknown outcomes")),
            ("expire_record", _("Can expire stored replies")),
            ("forget_record", _("Can forget keys")),
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.key}"


class JobStatus(models.TextChoices):
    """Where a job stands, as its document says it."""

    #: Its message is on the way to a worker, or will be sent again.
    QUEUED = "queued", _("queued")
    #: A worker has it, by lease and fencing token.
    RUNNING = "running", _("running")
    #: Its effects and its result are committed.
    SUCCEEDED = "succeeded", _("succeeded")
    #: It has raised, or its worker died too often; what was not committed in steps is undone.
    FAILED = "failed", _("failed")
    #: It was called off; what was not committed in steps is undone.
    CANCELLED = "cancelled", _("cancelled")


class Job(models.Model):
    """Long-running work that stands behind a record: its arguments are the outbox, its row the
    result. Whose it is, until when, and under which token is told by the record."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # No constraint: it would cost every deletion of the purge, which sees to jobs and steps.
    record = models.OneToOneField(
        IdempotencyRecord, on_delete=models.CASCADE, db_constraint=False, related_name="job"
    )
    status = models.CharField(max_length=16, choices=JobStatus.choices, default=JobStatus.QUEUED)
    task = models.CharField(max_length=255)
    arguments = models.TextField()
    #: Seconds, as promised when it was started.
    lease = models.FloatField()
    ttl = models.FloatField()
    tombstone = models.FloatField()
    done = models.PositiveBigIntegerField(null=True)
    total = models.PositiveBigIntegerField(null=True)
    result = models.TextField(null=True)  # noqa: DJ001 - NULL: there is none, not even null
    error_code = models.CharField(max_length=64, default="", blank=True)
    error_message = models.TextField(default="", blank=True)
    #: For operators only.
    traceback = models.TextField(default="", blank=True)
    #: How often a worker has begun it, and how often its message was sent again.
    attempts = models.PositiveIntegerField(default=0)
    resent = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "idempotency_job"
        verbose_name = _("idempotency job")
        verbose_name_plural = _("idempotency jobs")
        permissions = [("cancel_job", _("Can cancel jobs"))]

    def __str__(self) -> str:
        return f"{self.task} {self.id}"


class Step(models.Model):
    """A finished step of a leased execution or a job: its effects are committed with this row."""

    id = models.BigAutoField(primary_key=True)
    record = models.ForeignKey(
        IdempotencyRecord,
        on_delete=models.CASCADE,
        db_constraint=False,
        db_index=False,  # the constraint below begins with it
        related_name="steps",
    )
    position = models.PositiveIntegerField()
    name = models.CharField(max_length=64)
    result = models.TextField()
    #: The fencing token under which it was done.
    attempt = models.PositiveIntegerField()
    created_at = models.DateTimeField()

    class Meta:
        db_table = "idempotency_step"
        verbose_name = _("idempotency step")
        verbose_name_plural = _("idempotency steps")
        constraints = [
            models.UniqueConstraint(fields=["record", "position"], name="idempotency_step_place"),
        ]

    def __str__(self) -> str:
        return f"{self.position} {self.name}"


class HourlyCount(models.Model):
    """How often something happened to an operation within an hour, all processes together."""

    id = models.BigAutoField(primary_key=True)
    #: When the hour began, by the clocks of those who counted.
    hour = models.DateTimeField()
    operation = ByteExactField(max_length=128, blank=True)
    #: As in `idempotency.events`.
    event = ByteExactField(max_length=32)
    detail = ByteExactField(max_length=64, blank=True)
    count = models.PositiveBigIntegerField()
    #: Seconds that all of them took together.
    seconds = models.FloatField()

    class Meta:
        db_table = "idempotency_hourly_count"
        verbose_name = _("hourly count")
        verbose_name_plural = _("hourly counts")
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "operation", "event", "detail"], name="idempotency_hour"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} {self.operation} {self.event}"
