"""The Django application."""

from django.apps import AppConfig


class DemoConfig(AppConfig):
    """The demo command and the counts it reads."""

    name = "enrollment_demo.demo"
    default_auto_field = "django.db.models.BigAutoField"
