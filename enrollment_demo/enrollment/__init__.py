"""Takes enrollments: a seat from roster, an invoice from billing, then its own row."""

# Imported with the service, so that the web processes send their tasks by this app, too.
from enrollment_demo.enrollment.celery import app as celery_app

__all__ = ["celery_app"]
