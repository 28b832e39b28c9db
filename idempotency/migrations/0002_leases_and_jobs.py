import uuid

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("idempotency", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="idempotencyrecord",
            name="holds",
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name="idempotencyrecord",
            name="lease_until",
            field=models.DateTimeField(null=True),
        ),
        migrations.AlterField(
            model_name="idempotencyrecord",
            name="state",
            field=models.CharField(
                choices=[
                    ("running", "running"),
                    ("finished", "finished"),
                    ("job", "job"),
                    ("released", "released"),
                    ("abandoned", "abandoned"),
                    ("unknown", "outcome unknown"),
                ],
                default="running",
                max_length=16,
            ),
        ),
        migrations.CreateModel(
            name="Job",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("queued", "queued"),
                            ("running", "running"),
                            ("succeeded", "succeeded"),
                            ("failed", "failed"),
                            ("cancelled", "cancelled"),
                        ],
                        default="queued",
                        max_length=16,
                    ),
                ),
                ("task", models.CharField(max_length=255)),
                ("arguments", models.TextField()),
                ("lease", models.FloatField()),
                ("ttl", models.FloatField()),
                ("tombstone", models.FloatField()),
                ("done", models.PositiveBigIntegerField(null=True)),
                ("total", models.PositiveBigIntegerField(null=True)),
                ("result", models.TextField(null=True)),
                ("error_code", models.CharField(blank=True, default="", max_length=64)),
                ("error_message", models.TextField(blank=True, default="")),
                ("traceback", models.TextField(blank=True, default="")),
                ("attempts", models.PositiveIntegerField(default=0)),
                ("resent", models.PositiveIntegerField(default=0)),
                ("created_at", models.DateTimeField()),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "record",
                    models.OneToOneField(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="job",
                        to="idempotency.idempotencyrecord",
                    ),
                ),
            ],
            options={
                "verbose_name": "idempotency job",
                "verbose_name_plural": "idempotency jobs",
                "db_table": "idempotency_job",
            },
        ),
        migrations.CreateModel(
            name="Step",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("position", models.PositiveIntegerField()),
                ("name", models.CharField(max_length=64)),
                ("result", models.TextField()),
                ("attempt", models.PositiveIntegerField()),
                ("created_at", models.DateTimeField()),
                (
                    "record",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="steps",
                        to="idempotency.idempotencyrecord",
                    ),
                ),
            ],
            options={
                "verbose_name": "idempotency step",
                "verbose_name_plural": "idempotency steps",
                "db_table": "idempotency_step",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("record", "position"), name="idempotency_step_place"
                    )
                ],
            },
        ),
    ]
