"""The services as somebody would deploy them: Django's checks have nothing to say."""

import os
import secrets
import subprocess
import sys

import pytest

from enrollment_demo.demo import fleet
from enrollment_demo.demo.processes import ROOT


def check(service: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`manage.py check --deploy`, which makes the service's schema as well."""
    return subprocess.run(
        [
            *(sys.executable, "manage.py", "check", "--deploy", "--database", "default"),
            *("--fail-level", "WARNING"),
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": f"settings.{service}",
            "DJANGO_SECRET_KEY": secrets.token_urlsafe(48),
            "ALLOWED_HOSTS": f"{service}.example.org",
        }
        | env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.vendors("postgresql")
@pytest.mark.parametrize("service", fleet.SERVICES)
def test_a_deployment_hears_nothing(service: str) -> None:
    done = check(service, BEHIND_TLS="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no issues (0 silenced)" in done.stdout


@pytest.mark.vendors("postgresql")
def test_a_deployment_without_tls_is_told() -> None:
    done = check("enrollment")
    assert done.returncode == 1
    for said in ("security.W004", "security.W008", "security.W012", "security.W016"):
        assert said in done.stderr
