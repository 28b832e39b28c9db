"""The Django application."""

from django.apps import AppConfig


class IdempotencyConfig(AppConfig):
    """Registers the system checks, and connects the sinks of what happens."""

    name = "idempotency"
    verbose_name = "Idempotency"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from idempotency import checks, sinks  # noqa: F401, PLC0415 - they need the models

        sinks.connect()
