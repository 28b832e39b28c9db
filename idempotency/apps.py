"""The Django application."""

from django.apps import AppConfig, apps


class IdempotencyConfig(AppConfig):
    """Registers the system checks, the sinks of what happens, and what OpenAPI schemas say."""

    name = "idempotency"
    verbose_name = "Idempotency"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from idempotency import checks, sinks  # noqa: F401, PLC0415 - they need the models

        sinks.connect()
        if apps.is_installed("drf_spectacular"):  # an extra; its extensions register when imported
            from idempotency.contrib import spectacular  # noqa: F401, PLC0415 - the same
