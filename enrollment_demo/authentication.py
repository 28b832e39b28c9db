"""Who may call a service: people by their tokens, the other services by the shared one."""

from hmac import compare_digest
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from rest_framework.authentication import TokenAuthentication


class ServiceOrUserAuthentication(TokenAuthentication):
    """DRF's tokens for people; `SERVICE_TOKEN` for the other services, as the user `service`."""

    def authenticate_credentials(self, key: str) -> tuple[Any, Any]:
        """The owner of the token."""
        shared = settings.SERVICE_TOKEN
        if shared and compare_digest(key.encode(), shared.encode()):
            # Two first calls at once: the unique name lets one in, get_or_create reads its row.
            user, _ = get_user_model().objects.get_or_create(
                username="service", defaults={"password": make_password(None)}
            )
            if user.is_active:
                return user, None
        return super().authenticate_credentials(key)
