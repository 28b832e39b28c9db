"""The JSON of enrollments, and of sections that are imported."""

from collections import Counter

from rest_framework import serializers

from enrollment_demo.enrollment.models import Course, Enrollment, SectionImport
from enrollment_demo.rows import CodeField

#: Of one import. A larger section would outgrow what a client can watch and a job may return.
MOST_STUDENTS = 1000


class EnrollmentSerializer(serializers.ModelSerializer[Enrollment]):
    """One enrollment; the course by its code."""

    course: CodeField[Course] = CodeField(queryset=Course.objects.all())

    class Meta:
        model = Enrollment
        fields = [
            "id", "student", "course", "roster_entry", "invoice", "idempotency_key", "created",
        ]  # fmt: skip
        read_only_fields = ["roster_entry", "invoice", "idempotency_key"]


class SectionImportSerializer(serializers.ModelSerializer[SectionImport]):
    """One section; whoever sends a wrong one is told what to do."""

    course: CodeField[Course] = CodeField(
        queryset=Course.objects.all(),
        error_messages={
            "required": "Name the course by its code, such as CS101.",
            "null": "Name the course by its code, such as CS101.",
            "invalid": "Name the course by its code, such as CS101.",
            "does_not_exist": "There is no course {value}: send the code of one that there is.",
        },
    )
    students = serializers.ListField(
        child=serializers.CharField(
            max_length=64,
            error_messages={
                "blank": "This student has no name: leave the entry out.",
                "null": "This student has no name: leave the entry out.",
                "invalid": "Send each student's name as text, such as s-1.",
                "max_length": "Send names of at most {max_length} characters.",
            },
        ),
        allow_empty=False,
        max_length=MOST_STUDENTS,
        error_messages={
            "required": 'Send the students as a list, such as ["s-1", "s-2"].',
            "null": 'Send the students as a list, such as ["s-1", "s-2"].',
            "not_a_list": 'Send the students as a list, such as ["s-1", "s-2"].',
            "empty": "Send at least one student.",
            "max_length": (
                "Send at most {max_length} students: split a larger section, and give each part"
                " an idempotency key of its own."
            ),
        },
    )

    class Meta:
        model = SectionImport
        fields = ["id", "course", "students", "idempotency_key", "created"]
        read_only_fields = ["idempotency_key"]

    def validate_students(self, students: list[str]) -> list[str]:
        """Each is named once: two places for one student are never meant."""
        twice = [student for student, times in Counter(students).items() if times > 1]
        if twice:
            raise serializers.ValidationError(
                f"Name each student once; named more often: {', '.join(twice[:5])}."
            )
        return students
