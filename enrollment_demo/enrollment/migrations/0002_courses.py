"""What the courses are called and cost."""

from typing import Any

from django.db import migrations

COURSES = [
    ("CS101", "Introduction to computer science", "450.00"),
    ("MA201", "Linear algebra", "380.00"),
    ("PH110", "Mechanics", "410.00"),
    ("SEM9", "Seminar on queues", "120.00"),
]


def seed(apps: Any, schema_editor: Any) -> None:
    """Adds the courses."""
    course = apps.get_model("enrollment", "Course")
    course.objects.using(schema_editor.connection.alias).bulk_create(
        course(code=code, title=title, price=price) for code, title, price in COURSES
    )


class Migration(migrations.Migration):
    dependencies = [("enrollment", "0001_initial")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
