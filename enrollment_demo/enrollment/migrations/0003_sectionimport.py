"""The table of imported sections."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("enrollment", "0002_courses")]

    operations = [
        migrations.CreateModel(
            name="SectionImport",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("students", models.JSONField()),
                ("idempotency_key", models.CharField(blank=True, db_index=True, max_length=255)),
                ("created", models.DateTimeField(auto_now_add=True)),
                (
                    "course",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="imports",
                        to="enrollment.course",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
            },
        ),
    ]
