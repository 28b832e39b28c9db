"""Seats: plenty in most courses, two in the seminar."""

from typing import Any

from django.db import migrations

CAPACITIES = {"CS101": 100_000, "MA201": 100_000, "PH110": 100_000, "SEM9": 2}


def seed(apps: Any, schema_editor: Any) -> None:
    """Adds the courses."""
    course = apps.get_model("roster", "Course")
    course.objects.using(schema_editor.connection.alias).bulk_create(
        course(code=code, capacity=capacity) for code, capacity in CAPACITIES.items()
    )


class Migration(migrations.Migration):
    dependencies = [("roster", "0001_initial")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
