"""What gunicorn loads."""

import os

from django.core.wsgi import get_wsgi_application

import tests.worked.celery  # noqa: F401 - shared tasks are sent through its application

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.served.settings"

application = get_wsgi_application()
