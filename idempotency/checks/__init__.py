"""System checks: every setting, and the traps of cache, database, views, leases and jobs.

manage.py check --tag idempotency
manage.py check --tag idempotency --database default     # also asks the server
manage.py check --tag idempotency --deploy               # also loads what Celery's workers load
"""

from django.core.checks import Tags, register

from idempotency.checks.cache import check_cache
from idempotency.checks.connections import check_connections
from idempotency.checks.database import check_configuration, check_deployment, check_server
from idempotency.checks.executions import check_jobs, check_leases, check_workers
from idempotency.checks.settings import check_encryption, check_settings, check_surroundings
from idempotency.checks.views import check_views

#: The tag of all that ask no server: Django 6.1 takes a tag for leave to connect.
TAG = "idempotency"

register(check_settings, TAG)
register(check_surroundings, TAG)
register(check_encryption, TAG)
register(check_cache, TAG)
register(check_configuration, TAG)
register(check_connections, TAG)
register(check_deployment, TAG, deploy=True)
register(check_server, Tags.database)
register(check_views, TAG)
register(check_leases, TAG)
register(check_jobs, TAG)
register(check_workers, TAG, deploy=True)
