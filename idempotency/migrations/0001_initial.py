from django.db import migrations, models

import idempotency.models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="IdempotencyRecord",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("scope", idempotency.models.ByteExactField(max_length=255)),
                ("key", idempotency.models.ByteExactField(max_length=255)),
                ("operation", models.CharField(max_length=128)),
                (
                    "state",
                    models.CharField(
                        choices=[("running", "running"), ("finished", "finished")],
                        default="running",
                        max_length=16,
                    ),
                ),
                ("fingerprint", models.BinaryField(max_length=32)),
                ("fields", models.TextField(null=True)),
                ("attempt", models.PositiveIntegerField(default=1)),
                ("status", models.PositiveSmallIntegerField(null=True)),
                ("headers", models.TextField(default="")),
                ("body", models.BinaryField(null=True)),
                ("parent_key", models.CharField(blank=True, default="", max_length=255)),
                ("created_at", models.DateTimeField()),
                ("completed_at", models.DateTimeField(null=True)),
                ("expires_at", models.DateTimeField(null=True)),
                ("purge_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "idempotency record",
                "verbose_name_plural": "idempotency records",
                "db_table": "idempotency_record",
                "indexes": [models.Index(fields=["purge_at", "id"], name="idempotency_purge_at")],
                "constraints": [
                    models.UniqueConstraint(fields=("scope", "key"), name="idempotency_scope_key")
                ],
            },
        ),
    ]
