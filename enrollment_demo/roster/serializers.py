"""The JSON of a roster entry."""

from rest_framework import serializers

from enrollment_demo.roster.models import Course, RosterEntry
from enrollment_demo.rows import CodeField


class RosterEntrySerializer(serializers.ModelSerializer[RosterEntry]):
    """One seat; the course by its code."""

    course: CodeField[Course] = CodeField(queryset=Course.objects.all())

    class Meta:
        model = RosterEntry
        fields = ["id", "student", "course", "idempotency_key", "created"]
        read_only_fields = ["idempotency_key"]
