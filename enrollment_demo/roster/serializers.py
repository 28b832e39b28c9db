"""The JSON of a roster entry."""

from rest_framework import serializers

from enrollment_demo.roster.models import Course, RosterEntry


class RosterEntrySerializer(serializers.ModelSerializer[RosterEntry]):
    """One seat; the course by its code."""

    course = serializers.SlugRelatedField(slug_field="code", queryset=Course.objects.all())

    class Meta:
        model = RosterEntry
        fields = ["id", "student", "course", "idempotency_key", "created"]
        read_only_fields = ["idempotency_key"]
