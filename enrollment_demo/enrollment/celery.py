"""The Celery app of the enrollment service.

    celery -A enrollment_demo.enrollment worker    carries out jobs; as many as there is work for
    celery -A enrollment_demo.enrollment beat      starts the sweep and the purge; one, anywhere

Both want DJANGO_SETTINGS_MODULE=settings.enrollment, where the CELERY_ settings stand.
"""

from celery import Celery

app = Celery("enrollment")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
