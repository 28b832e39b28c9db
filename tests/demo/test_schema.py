"""What the services say of themselves, and whether it is true: schemathesis asks them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests
from drf_spectacular.validation import validate_schema

from enrollment_demo.demo import fleet
from tests.demo.conftest import Sample, running_sample

CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    """Services of their own: of the jobs that are started here, no worker should hear."""
    with running_sample(tmp_path_factory.mktemp("asked")) as sample:
        assert sample.enroll("s-1").json()["invoice"] == 1  # the configuration names it
        yield sample


@pytest.mark.schemathesis
@pytest.mark.parametrize("service", fleet.SERVICES)
def test_schemathesis_finds_nothing(asked: Sample, service: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "--no-color"),
            *("run", f"{asked.services[service].url}/api/schema/?format=json"),
            *("--header", f"Authorization: Token {asked.service_token}"),
        ],
        cwd=tmp_path,  # it keeps notes
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert re.search(r"Selected: (\d+)/\1\n +Tested: \1\n", done.stdout), done.stdout
    tried = re.search(r"(\d+) generated, \1 passed", done.stdout)
    assert tried, done.stdout
    assert int(tried[1]) > 100


@pytest.mark.parametrize("service", fleet.SERVICES)
def test_the_schema_is_valid(sample: Sample, service: str) -> None:
    reply = requests.get(f"{sample.services[service].url}/api/schema/?format=json", timeout=30)
    assert reply.status_code == 200
    validate_schema(reply.json())


@pytest.mark.parametrize("service", fleet.SERVICES)
def test_the_page_needs_nobody_else(sample: Sample, service: str) -> None:
    """No script in the page, and all that it loads comes from the service."""
    url = f"{sample.services[service].url}/api/docs/"
    reply = requests.get(url, timeout=30)
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert re.findall(r"<script(?![^>]* src=)", reply.text) == []
    loaded = re.findall(r'(?:src|href)="([^"]+)"', reply.text)
    assert len(loaded) == 5
    for each in loaded:
        assert each.startswith("/")
        assert requests.get(urljoin(url, each), timeout=30).status_code == 200
