"""The services over HTTP, each a process of its own: what they promise, and how they refuse."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from enrollment_demo.demo import fleet
from enrollment_demo.demo.processes import ROOT
from enrollment_demo.demo.relay import Fault
from tests.demo.conftest import LISTS, Sample


def test_the_same_key_twice_makes_one_row_each(sample: Sample, student: str, key: str) -> None:
    """The second reply is the first one's bytes, marked as a replay."""
    first, second = sample.enroll(student, key=key), sample.enroll(student, key=key)

    assert (first.status_code, second.status_code) == (201, 201)
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert second.content == first.content
    assert sample.counts(student=student) == (1, 1, 1)


def test_every_row_names_the_key_that_made_it(sample: Sample, student: str, key: str) -> None:
    """The children's keys are derived: `{key}-roster` and `{key}-billing`."""
    made = sample.enroll(student, key=key).json()

    [enrollment] = sample.rows("enrollment", idempotency_key=key)
    [invoice] = sample.rows("billing", idempotency_key=f"{key}-billing")
    [entry] = sample.rows("roster", idempotency_key=f"{key}-roster")
    assert enrollment == made
    assert (made["invoice"], made["roster_entry"]) == (invoice["id"], entry["id"])
    assert invoice["amount"] == "450.00"


def test_another_body_under_a_known_key(sample: Sample, student: str, key: str) -> None:
    """Enrollment and roster are lenient and replay; billing is strict and names the field."""
    first = sample.enroll(student, key=key)
    other = sample.enroll("somebody-else", key=key)
    assert other.content == first.content

    invoice = {"student": student, "course": "CS101", "amount": "1.00"}
    assert sample.post("billing", invoice, key).status_code == 201
    refused = sample.post("billing", invoice | {"amount": "2.00"}, key)
    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_key_reused")
    assert refused.json()["mismatched_fields"] == ["amount"]
    assert refused.headers["Content-Type"] == "application/problem+json"


def test_two_users_with_one_key_stay_apart(sample: Sample, student: str, key: str) -> None:
    """At roster and billing both come as the user `service`; Idempotency-Scope parts them."""
    ann = sample.enroll(student, key=key, token=sample.tokens["ann"])
    ben = sample.enroll(student, key=key, token=sample.tokens["ben"])

    assert (ann.status_code, ben.status_code) == (201, 201)
    assert sample.counts(student=student) == (2, 2, 2)


def test_without_a_key(sample: Sample, student: str) -> None:
    """Enrollment asks for none, and calls billing, which does, under one of the call's own."""
    assert sample.enroll(student).status_code == 201
    [row] = sample.rows("enrollment", student=student)
    assert row["idempotency_key"] == ""
    [invoice] = sample.rows("billing", student=student)
    assert invoice["idempotency_key"]

    for path, body in (
        ("/api/invoices/", {"student": student, "course": "CS101", "amount": "1.00"}),
        ("/api/payments/", {"invoice": invoice["id"], "amount": "1.00"}),
    ):
        refused = sample.post("billing", body, path=path)
        assert (refused.status_code, refused.json()["code"]) == (400, "idempotency_key_required")


def test_null_characters_are_the_callers_mistake(sample: Sample, student: str) -> None:
    """PostgreSQL would refuse them, in a body and in a filter."""
    body = {"student": student, "course": "CS\0"}
    for service in ("enrollment", "roster"):
        refused = sample.post(service, body)
        assert (refused.status_code, list(refused.json())) == (400, ["course"])
        assert sample.rows(service, student="s-\0") == []


def test_a_path_that_is_not_there_is_told_in_json(sample: Sample) -> None:
    for service in sample.services.values():
        reply = requests.get(f"{service.url}/api/nowhere/", timeout=30)
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


def test_a_payment_is_made_once(sample: Sample, student: str, key: str) -> None:
    """Payments are protected as invoices are."""
    invoice = sample.enroll(student, key=key).json()["invoice"]
    body = {"invoice": invoice, "amount": "100.00"}

    first, second = (sample.post("billing", body, key, path="/api/payments/") for _ in range(2))

    assert (first.status_code, second.content) == (201, first.content)


def test_a_full_course_is_refused_and_leaves_nothing(
    sample: Sample, student: str, key: str
) -> None:
    """Roster's refusal reaches the client with roster's code; it is not worth a retry."""
    course = sample.course(capacity=0)

    refused = sample.enroll(student, course, key)

    assert (refused.status_code, refused.json()["code"]) == (409, "course_full")
    assert "Retry-After" not in refused.headers
    assert sample.counts(student=student) == (0, 0, 0)


def test_a_refused_key_is_free_once_there_is_a_seat(sample: Sample, student: str, key: str) -> None:
    """A refusal was rolled back, so it is forgotten, at roster and at enrollment."""
    course = sample.course(capacity=0)
    assert sample.enroll(student, course, key).status_code == 409
    sample.execute("roster", "UPDATE roster_course SET capacity = 1 WHERE code = %s", course)

    assert sample.enroll(student, course, key).status_code == 201
    assert sample.counts(student=student) == (1, 1, 1)


def test_a_crowd_for_the_last_seats_never_overbooks(sample: Sample, key: str) -> None:
    """Three seats, sixteen students at once: three get in, the others are told why not."""
    course = sample.course(capacity=3)

    with ThreadPoolExecutor(16) as crowd:
        replies = list(
            crowd.map(
                lambda number: sample.post(
                    "roster", {"student": f"c-{number}", "course": course}, f"{key}-{number}"
                ),
                range(16),
            )
        )

    assert sorted(reply.status_code for reply in replies) == [201] * 3 + [409] * 13
    assert {reply.json()["code"] for reply in replies if reply.status_code == 409} == {
        "course_full"
    }
    assert len(sample.rows("roster", course=course)) == 3


def test_an_unreachable_child_is_a_503(
    sample: Sample, student: str, key: str, billing_again: None
) -> None:
    """Nothing is enrolled; the same key finds its seat again once billing is back."""
    sample.relay.cut()
    reply = sample.enroll(student, key=key)
    assert (reply.status_code, reply.json()["code"]) == (503, "service_unavailable")
    assert int(reply.headers["Retry-After"]) >= 1
    assert sample.counts(student=student) == (0, 0, 1)

    sample.relay.mend()
    assert sample.enroll(student, key=key).status_code == 201
    assert sample.counts(student=student) == (1, 1, 1)


def test_lost_replies_of_a_child_make_nothing_twice(
    sample: Sample, student: str, key: str, billing_again: None
) -> None:
    """Billing did its work and could not say so: the retry is told of the first invoice."""
    sample.relay.fault = Fault.DROP
    assert sample.enroll(student, key=key).status_code == 503
    assert sample.counts(student=student) == (0, 1, 1)

    sample.relay.mend()
    assert sample.enroll(student, key=key).status_code == 201
    assert sample.counts(student=student) == (1, 1, 1)


def test_a_mismatch_at_billing_reaches_the_client(
    sample: Sample, student: str, key: str, billing_again: None
) -> None:
    """The price changed between two tries: the invoice under this key is for another amount."""
    course = sample.course(capacity=5)
    sample.relay.fault = Fault.DROP
    assert sample.enroll(student, course, key).status_code == 503
    sample.execute("enrollment", "UPDATE enrollment_course SET price = 11 WHERE code = %s", course)
    sample.relay.mend()

    refused = sample.enroll(student, course, key)

    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_key_reused")
    assert "Retry-After" not in refused.headers
    assert sample.counts(student=student) == (0, 1, 1)


def test_a_seat_of_another_student_is_not_taken_for_ours(
    sample: Sample, student: str, key: str, billing_again: None
) -> None:
    """The lenient roster replays the first try's seat; enrollment sees whose it is."""
    sample.relay.cut()
    assert sample.enroll(student, key=key).status_code == 503
    sample.relay.mend()

    refused = sample.enroll("somebody-else-2", key=key)

    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_key_reused")
    assert sample.counts(student="somebody-else-2") == (0, 0, 0)


@pytest.mark.parametrize("service", fleet.SERVICES)
def test_who_may_call(sample: Sample, service: str) -> None:
    """Users' tokens and the services' own; nothing else, an empty one included."""
    for header in ({}, {"Authorization": "Token nobody"}, {"Authorization": "Token é"}):
        url = sample.services[service].url + LISTS[service]
        refused = requests.get(url, headers={k: v.encode() for k, v in header.items()}, timeout=30)
        assert refused.status_code == 401
    assert sample.rows(service, student="nobody") == []


def test_each_process_tells_what_it_counted(sample: Sample, student: str, key: str) -> None:
    """One execution, one replay more."""
    before = sample.events("enrollment")
    sample.enroll(student, key=key)
    sample.enroll(student, key=key)
    after = sample.events("enrollment")

    assert after["executed"] == before["executed"] + 1
    assert after["replayed.cache"] == before["replayed.cache"] + 1


def test_the_admin_site_is_styled(sample: Sample) -> None:
    """No web server stands in front of the sample."""
    origin = sample.services["enrollment"].url
    assert requests.get(f"{origin}/admin/login/", timeout=30).status_code == 200
    assert requests.get(f"{origin}/static/admin/css/base.css", timeout=30).status_code == 200


@pytest.mark.parametrize("service", fleet.SERVICES)
def test_a_service_checks_out_on_sqlite(
    plain_environment: dict[str, str], tmp_path: Path, service: str
) -> None:
    """Where nobody names a server, each can be tried out on a file."""
    done = subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        cwd=ROOT,
        env=plain_environment
        | {
            "DJANGO_SETTINGS_MODULE": f"settings.{service}",
            "DATABASE_URL": f"sqlite:///{tmp_path}/{service}.sqlite3",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
