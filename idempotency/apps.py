"""The Django application."""

from django.apps import AppConfig, apps


class IdempotencyConfig(AppConfig):
    """Registers the system checks, the counting of what happens, and what OpenAPI schemas say."""

    name = "idempotency"
    verbose_name = "Idempotency"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from idempotency import checks, counting, events  # noqa: F401, PLC0415 - needs the models

        events.recorded.connect(counting.count, dispatch_uid="idempotency.counting")
        if apps.is_installed("drf_spectacular"):  # an extra; its extensions register when imported
            from idempotency.contrib import spectacular  # noqa: F401, PLC0415 - the same
