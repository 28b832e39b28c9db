"""The ledger's table: one row a (scope, key), the only truth about who owns a key."""

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

    #: The claim's transaction is open; no other transaction sees the row yet.
    RUNNING = "running", _("running")
    #: The reply is stored; whether it is still replayed is told by `expires_at`.
    FINISHED = "finished", _("finished")


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
    status = models.PositiveSmallIntegerField(null=True)
    headers = models.TextField(default="")
    body = models.BinaryField(null=True)
    parent_key = models.CharField(max_length=255, default="", blank=True)
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
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.key}"
