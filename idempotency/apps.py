"""The Django application."""

from django.apps import AppConfig


class IdempotencyConfig(AppConfig):
    """Registers the system checks, and the counting of what happens."""

    name = "idempotency"
    verbose_name = "Idempotency"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from idempotency import checks, counting, events  # noqa: F401, PLC0415 - needs the models

        events.recorded.connect(counting.count, dispatch_uid="idempotency.counting")
