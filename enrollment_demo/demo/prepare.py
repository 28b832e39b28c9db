"""Makes one service's database ready: `python -m enrollment_demo.demo.prepare`, accounts on stdin.

Stdin is JSON: {"tokens": {username: token}, "admin": password}. Run under the service's settings,
as its own process: the demo itself belongs to no service.
"""

import json
import sys
from typing import Any

import django


def main(wanted: dict[str, Any]) -> None:
    """Migrates; makes the accounts."""
    django.setup()

    # Models can be imported only now.
    from django.contrib.auth import get_user_model  # noqa: PLC0415
    from django.contrib.auth.hashers import make_password  # noqa: PLC0415
    from django.core.management import call_command  # noqa: PLC0415
    from rest_framework.authtoken.models import Token  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    users = get_user_model()._default_manager
    tokens: dict[str, str] = wanted["tokens"]
    no_password = make_password(None)
    made = users.bulk_create(users.model(username=name, password=no_password) for name in tokens)
    Token.objects.bulk_create(Token(user=user, key=tokens[user.get_username()]) for user in made)
    if wanted["admin"]:
        users.create_superuser(username="admin", password=wanted["admin"])


if __name__ == "__main__":
    main(json.load(sys.stdin))
