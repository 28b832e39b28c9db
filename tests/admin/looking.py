"""Pages of the admin, as tests ask for them."""

from typing import Any

from django.test import Client
from django.urls import reverse

from idempotency.models import IdempotencyRecord, Job

LIST = "admin:idempotency_idempotencyrecord_changelist"
JOBS = "admin:idempotency_job_changelist"


def url_of(row: IdempotencyRecord | Job) -> str:
    """A row's own page."""
    return reverse(f"admin:idempotency_{row._meta.model_name}_change", args=[row.pk])


def response_of(client: Client, row: IdempotencyRecord | Job) -> Any:
    """A row's own page, answered."""
    response = client.get(url_of(row))
    assert response.status_code == 200
    return response


def detail(client: Client, row: IdempotencyRecord | Job) -> str:
    """A row's own page as text."""
    page: str = response_of(client, row).content.decode()
    return page
