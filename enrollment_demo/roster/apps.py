"""The Django application."""

from django.apps import AppConfig


class RosterConfig(AppConfig):
    """Seats in courses."""

    name = "enrollment_demo.roster"
    default_auto_field = "django.db.models.BigAutoField"
