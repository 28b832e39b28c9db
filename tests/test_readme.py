"""The README's examples of jobs, consumers and crashes, run as they stand there."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from celery import current_app
from rest_framework.test import APIRequestFactory

from idempotency.models import IdempotencyRecord, State
from tests.app.models import Enrollment, Payment
from tests.concurrent import until
from tests.factories import RecordFactory
from tests.worked import worker

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.vendors("postgresql", "mysql"),
    pytest.mark.usefixtures("redis_db"),
]

README = Path(__file__).parent.parent / "README.md"

#: What the README's reader has imported by then, from its own project or from earlier examples.
PROJECT = """
from datetime import timedelta
from celery import shared_task
from rest_framework.views import APIView
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Enrollment, Payment
"""


def examples(section: str) -> list[str]:
    """The Python examples of a section."""
    text = README.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Makes a module of an example, for this process and the workers that it starts."""

    def make(section):
        name = f"readme_{re.sub(r'[^a-z]', '_', section.lower())}"
        path = tmp_path / f"{name}.py"
        path.write_text(PROJECT + examples(section)[0])
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        spec.loader.exec_module(module)
        return module

    return make


def test_a_job_is_started_attached_to_and_replayed(example, broker, tmp_path):
    module = example("Long-running work")
    view = module.SectionImportView.as_view()

    def post():
        asked = {"students": ["s-1", "s-2"]}
        request = APIRequestFactory().post(
            "/", asked, format="json", headers={"Idempotency-Key": "71f4"}
        )
        return view(request)

    assert post().status_code == 202
    with worker(tmp_path / "worker.log", "--include", module.__name__):
        until(lambda: post().status_code == 200)
    assert b'"result":{"enrolled":2}' in post().content
    assert list(Enrollment.objects.order_by("pk").values_list("student", "key")) == [
        ("s-1", "71f4-enroll.1"),
        ("s-2", "71f4-enroll.2"),
    ]


def test_a_delivery_counts_once(example, broker, tmp_path):
    module = example("Consumers")
    event = {"id": "e-1", "amount": 5}
    with worker(tmp_path / "worker.log", "--include", module.__name__):
        module.payment_received.delay(event)
        until(lambda: Payment.objects.count() == 1)
    assert module.payment_received(event) == {"booked": 5}
    assert Payment.objects.count() == 1


def test_the_beat_schedule_names_tasks_that_are_there(broker):
    settings: dict = {}
    exec(examples("When something crashes")[0], settings)
    current_app.loader.import_default_modules()
    for entry in settings["CELERY_BEAT_SCHEDULE"].values():
        assert entry["task"] in current_app.tasks


def test_an_operator_settles_a_key(redis_db):
    first, second = examples("When something crashes")[1].strip().splitlines()[-2:]
    names: dict = {}
    exec("from idempotency import settlement", names)
    for verdict, state in [(first, State.FINISHED), (second, State.RELEASED)]:
        IdempotencyRecord.objects.all().delete()
        RecordFactory(
            scope="user:7/payments", key="71f4", state=State.UNKNOWN, holds=True,
            status=None, headers="", body=None, completed_at=None, expires_at=None, purge_at=None,
        )  # fmt: skip
        exec(verdict, names)
        assert IdempotencyRecord.objects.get().state == state
