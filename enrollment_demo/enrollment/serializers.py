"""The JSON of an enrollment."""

from rest_framework import serializers

from enrollment_demo.enrollment.models import Course, Enrollment


class EnrollmentSerializer(serializers.ModelSerializer[Enrollment]):
    """One enrollment; the course by its code."""

    course = serializers.SlugRelatedField(slug_field="code", queryset=Course.objects.all())

    class Meta:
        model = Enrollment
        fields = [
            "id", "student", "course", "roster_entry", "invoice", "idempotency_key", "created",
        ]  # fmt: skip
        read_only_fields = ["roster_entry", "invoice", "idempotency_key"]
