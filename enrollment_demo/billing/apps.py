"""The Django application."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """Invoices and payments."""

    name = "enrollment_demo.billing"
    default_auto_field = "django.db.models.BigAutoField"
