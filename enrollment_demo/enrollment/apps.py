"""The Django application."""

from django.apps import AppConfig


class EnrollmentConfig(AppConfig):
    """Courses and who enrolled in them."""

    name = "enrollment_demo.enrollment"
    default_auto_field = "django.db.models.BigAutoField"
