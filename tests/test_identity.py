"""Names of callers, and what sets two identities apart."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured

from idempotency.identity import caller_of, identify
from tests.app.models import Booking

NOBODY = SimpleNamespace(is_authenticated=False, pk=None)


def authenticated(kind: Any, key: int) -> Any:
    """A user of some class, with a primary key."""
    user = kind(pk=key)
    user.is_authenticated = True
    return user


def test_users_of_two_classes_with_one_key_are_two_callers() -> None:
    """Devices and persons are numbered apart, and both from 1."""

    class Device(SimpleNamespace):
        pass

    names = {
        caller_of(User(pk=1), None),
        caller_of(authenticated(Booking, 1), None),
        caller_of(authenticated(Device, 1), None),
    }
    assert len(names) == 3
    assert "user:1" in names


def test_without_a_user_and_auth_a_caller_is_anonymous() -> None:
    assert caller_of(NOBODY, None) == caller_of(None, None) == "anon"


def test_what_cannot_be_named_is_refused() -> None:
    """An authenticated caller is never taken for an anonymous one."""
    nameless = SimpleNamespace(is_authenticated=True, pk=None)
    with pytest.raises(ImproperlyConfigured, match="get_idempotency_caller"):
        caller_of(nameless, None)
    with pytest.raises(ImproperlyConfigured, match="object"):
        caller_of(NOBODY, object())


def test_one_key_in_two_databases_has_two_names() -> None:
    """A router may give each tenant a database, and the tenants share the caches."""
    one, other = (identify("anon", "op", None, "k", using) for using in ("default", "tenant"))
    assert one.digest != other.digest
