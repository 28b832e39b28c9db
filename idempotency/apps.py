"""The Django application."""

from django.apps import AppConfig


class IdempotencyConfig(AppConfig):
    """Registers the system checks and nothing else."""

    name = "idempotency"
    verbose_name = "Idempotency"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from idempotency import checks  # noqa: F401, PLC0415 - importing it registers the checks
