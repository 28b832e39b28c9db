"""Who looks at the admin."""

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from tests.factories import UserFactory


@pytest.fixture
def staff(client: Client) -> User:
    """A member of the staff who may do nothing yet, and is logged in."""
    user = UserFactory.create(is_staff=True)
    client.force_login(user)
    return user


@pytest.fixture
def may(staff: User):
    """Gives that member permissions, by their codenames."""

    def may(*codenames: str) -> None:
        for codename in codenames:
            permission = Permission.objects.get(
                content_type__app_label="idempotency", codename=codename
            )
            staff.user_permissions.add(permission)

    return may


@pytest.fixture
def viewer(client: Client, may) -> Client:
    """A client that may look at records."""
    may("view_idempotencyrecord")
    return client


@pytest.fixture
def job_viewer(client: Client, may) -> Client:
    """A client that may look at jobs."""
    may("view_job")
    return client
