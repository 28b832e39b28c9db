"""The optional sinks switch themselves on where their package is, and only there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from idempotency import events, sinks
from idempotency.events import Event

ROOT = Path(__file__).parent.parent

#: Starts Django as a project does that lacks the packages in its arguments.
LACKING = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None  # an import of it fails, as if it were not installed
import django
django.setup()
from idempotency import events, sinks
events.record(events.Event(events.EXECUTED, "bookings.book"))
print(sorted(sink for sink in sinks.OPTIONAL.values() if sink in sys.modules))
print(len(events.recorded.receivers), events.counts()["executed"])
"""


@pytest.mark.parametrize(
    ("missing", "on"),
    [
        ([], ["idempotency.contrib.opentelemetry", "idempotency.contrib.prometheus"]),
        (["prometheus_client"], ["idempotency.contrib.opentelemetry"]),
        (["opentelemetry"], ["idempotency.contrib.prometheus"]),
        (["prometheus_client", "opentelemetry.trace"], []),
    ],
)
def test_a_sink_is_on_where_its_package_is(missing, on):
    done = subprocess.run(
        [sys.executable, "-c", LACKING, *missing],
        cwd=ROOT,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "settings.lint"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [str(on), f"{1 + len(on)} 1"], done.stderr


def test_connecting_again_counts_nothing_twice():
    before = list(events.recorded.receivers)
    sinks.connect()
    assert events.recorded.receivers == before


def test_each_sink_can_be_taken_off():
    for uid in ("counting", "prometheus", "opentelemetry"):
        assert events.recorded.disconnect(dispatch_uid=f"idempotency.{uid}")
    try:
        events.record(Event(events.EXECUTED))  # nobody hears it, and nothing fails
        assert not events.recorded.receivers
    finally:
        sinks.connect()
    assert len(events.recorded.receivers) == 3
