"""The JSON of refusals, jobs and outcomes, as serializers: drf-spectacular makes components of
them, in the dialect and under the names that the project has chosen. Nothing is rendered by them.
"""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from idempotency.layers.look import Standing
from idempotency.models import JobStatus

# Types and enumerations of their own name: inlined, a project's StatusEnum would be renamed.
_JOB_STATUS: dict[str, Any] = {"type": "string", "enum": JobStatus.values}
_KEY_STATE: dict[str, Any] = {"type": "string", "enum": [each.value for each in Standing]}


@extend_schema_field(_JOB_STATUS, component_name="IdempotencyJobStatus")
class _JobStatus(serializers.CharField):
    pass


@extend_schema_field(_KEY_STATE, component_name="IdempotencyKeyState")
class _KeyState(serializers.CharField):
    pass


class IdempotencyProblem(serializers.Serializer[Any]):
    """Why a request under an idempotency key was refused (RFC 9457). `code` is for programs."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField()
    mismatched_fields = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="The top-level fields in which the two requests differ, where they are known.",
    )


class IdempotencyJobProgress(serializers.Serializer[Any]):
    """How much of how much is done."""

    done = serializers.IntegerField()
    total = serializers.IntegerField()


class IdempotencyJobError(serializers.Serializer[Any]):
    """Why a job failed."""

    code = serializers.CharField()
    message = serializers.CharField()


class IdempotencyJob(serializers.Serializer[Any]):
    """How far a job is, and what came of it."""

    id = serializers.UUIDField()
    status = _JobStatus()
    progress = IdempotencyJobProgress(allow_null=True)
    result = serializers.JSONField()  # null, too
    error = IdempotencyJobError(allow_null=True)
    attempts = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class IdempotencyKeyOutcome(serializers.Serializer[Any]):
    """What came of the request under a key."""

    state = _KeyState()
    status = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    replayable = serializers.BooleanField()
    job = serializers.UUIDField(allow_null=True)
