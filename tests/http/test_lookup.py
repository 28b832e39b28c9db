"""The optional look-ups: callers learn what came of their own keys and jobs, and of no others."""

from datetime import timedelta
from urllib.parse import quote
from uuid import uuid4

import pytest
from celery import shared_task
from cryptography.fernet import Fernet
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.urls import include, path, reverse
from django.utils import timezone
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.documents import document
from idempotency.identity import identify
from idempotency.jobs import start_job
from idempotency.layers import encryption, jobs, ledger, look
from idempotency.lookup import JobLookup, KeyLookup
from idempotency.models import IdempotencyRecord, Job
from idempotency.outcomes import Abandoned, Attached, Expired, Finished, Identity, InFlight
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.contracts.test_ledger import candidate
from tests.factories import JobFactory, RecordFactory, UserFactory
from tests.http.asking import Caller, assert_refused, replayed

OPERATION = "tests.Bookings.post"


@shared_task
def import_section(course):
    """Never run here."""


class Bookings(IdempotencyMixin, APIView):
    def post(self, request):
        booking = Booking.objects.create(name="one")
        headers = {"Location": f"/bookings/{booking.pk}/", "Cache-Control": "max-age=60"}
        return Response({"id": booking.pk}, status=201, headers=headers)


class Imports(IdempotencyMixin, APIView):
    idempotency_policy = Policy(execution="job")

    def post(self, request):
        return start_job(import_section, course="CS101")


class ByTenant:
    """How a project names its callers, on its protected views and on the look-ups alike."""

    def get_idempotency_caller(self, request):
        return f"tenant:{request.user.username}"


class TenantBookings(ByTenant, Bookings):
    idempotency_operation = "bookings"


class TenantKeys(ByTenant, KeyLookup):
    pass


class TenantJobs(ByTenant, JobLookup):
    pass


class Strangers:
    def get_idempotency_caller(self, request):
        return "anon"


class StrangersKeys(Strangers, KeyLookup):
    pass


tenants = [
    path("keys/<path:key>/", TenantKeys.as_view(), name="key"),
    path("jobs/<uuid:job_id>/", TenantJobs.as_view(), name="job"),
]
urlpatterns = [
    path("idempotency/", include("idempotency.urls")),
    path("<slug:version>/idempotency/", include("idempotency.urls", namespace="versioned")),
    path("tenants/", include((tenants, "idempotency"), namespace="tenants")),
    path("strangers/keys/<path:key>/", StrangersKeys.as_view()),
    path("closed/keys/<path:key>/", KeyLookup.as_view(permission_classes=[IsAuthenticated])),
    path("elsewhere/keys/<path:key>/", KeyLookup.as_view(using="elsewhere")),
    path("bookings/", Bookings.as_view()),
    path("imports/", Imports.as_view()),
    path("tenant-bookings/", TenantBookings.as_view()),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


class Curious(Caller):
    """A caller who also asks what came of it."""

    def key(self, key="k-1", *, at="/idempotency", scope=None, **query):
        query = {"operation": OPERATION} | query
        headers = {} if scope is None else {"Idempotency-Scope": scope}
        return self.get(f"{at}/keys/{quote(key, safe='')}/", query, headers=headers)

    def job(self, job_id, *, at="/idempotency", scope=None):
        headers = {} if scope is None else {"Idempotency-Scope": scope}
        return self.get(f"{at}/jobs/{job_id}/", headers=headers)


def curious(user=None) -> Curious:
    """A caller with a name, without the statements that authentication would take."""
    caller = Curious()
    caller.force_authenticate(user or UserFactory.create())
    return caller


@pytest.fixture
def me() -> Curious:
    return curious()


@pytest.fixture
def user(me):
    return me.handler._force_user


def scope_of(user, narrowing=None) -> str:
    return identify(f"user:{user.pk}", OPERATION, narrowing, "").scope


@pytest.fixture
def plant(user):
    """Plants a record of the caller's."""

    def planted(**traits):
        return RecordFactory.create(**{"scope": scope_of(user), "key": "k-1"} | traits)

    return planted


@pytest.fixture
def plant_job(user):
    """Plants a job of the caller's."""

    def planted(**traits):
        mine = {"record__scope": scope_of(user), "record__key": "k-1"}
        return JobFactory.create(**mine | traits)

    return planted


def statements(call) -> list[str]:
    """The first words of the statements meanwhile."""
    with CaptureQueriesContext(connection) as queries:
        call()
    return [query["sql"].split()[0] for query in queries]


# What came of a key


def test_the_outcome_of_a_request(redis_db, me):
    before = timezone.now() - timedelta(seconds=1)  # SQLite's clock knows milliseconds
    me.ask("/bookings/")
    response = me.key()
    record = IdempotencyRecord.objects.get()
    assert response.status_code == 200
    assert response.data == {
        "state": "finished",
        "status": 201,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "replayable": True,
        "job": None,
    }
    assert before < record.created_at < record.expires_at
    assert response.json()["expires_at"].endswith("Z")
    assert not replayed(response)


STATES = {
    "running": ("running", None, False),
    "leased": ("running", None, False),
    "lapsed": ("abandoned", None, False),
    "abandoned": ("abandoned", None, False),
    "unknown": ("unknown", None, False),
    "not_kept": ("finished", 201, False),
    "tombstone": ("expired", 201, False),
}


@pytest.mark.parametrize(("trait", "told"), STATES.items(), ids=STATES)
def test_each_state_is_told(me, plant, trait, told):
    plant(**{trait: True})
    response = me.key()
    outcome = response.json()
    assert (outcome["state"], outcome["status"], outcome["replayable"]) == told
    assert outcome["job"] is None
    assert ("Retry-After" in response) is (outcome["state"] == "running")


def test_a_lapsed_lease_under_hold_is_unknown(me, plant):
    """As a retry would be told, whether the sweep has come by or not."""
    plant(lapsed=True, holds=True)
    assert me.key().json()["state"] == "unknown"


def test_a_tombstone_that_a_purge_has_emptied_is_expired(me, plant):
    """Also where the look-up's clock reading came a moment before its end."""
    plant(headers="", body=None)
    assert me.key().json()["state"] == "expired"


JOBS = {
    "queued": ("running", None),
    "running": ("running", None),
    "succeeded": ("finished", 201),
    "failed": ("finished", 201),
    "cancelled": ("finished", 201),
    "held": ("unknown", None),
}


@pytest.mark.parametrize(("status", "told"), JOBS.items(), ids=JOBS)
def test_a_key_tells_of_its_job(me, plant_job, status, told):
    job = plant_job(**({} if status == "queued" else {status: True}))
    outcome = me.key().json()
    assert (outcome["state"], outcome["status"]) == told
    assert outcome["job"] == str(job.pk)


@pytest.mark.parametrize("trait", ["released", "forgotten"])
def test_a_key_that_is_free_again_is_unknown(me, plant, trait):
    plant(**{trait: True})
    assert me.key().status_code == me.key(reply=1).status_code == 404


def test_a_key_that_was_never_used_is_unknown(me, plant):
    plant(key="k-2")
    missing = me.key()
    assert missing.status_code == 404
    assert "same key" in missing.json()["detail"]


@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("trait", ["released", "forgotten", *STATES, "pending"])
def test_a_look_tells_what_a_claim_would_meet(plant, trait, holds):
    """The ledger's verdict and the look-up's are two pieces of code."""
    record = plant(**{trait: True}, holds=holds)
    identity = Identity(record.scope, record.key)
    told = look.outcome(identity, with_reply=True)
    with transaction.atomic():
        met = ledger.claim(candidate(scope=record.scope, key=record.key), using="default")
        transaction.set_rollback(True)
    match met:
        case Finished(stored):
            assert (told.state, told.reply) == ("finished", None if stored.body is None else stored)
        case Expired():
            assert told.state == "expired"
        case InFlight() | Attached():
            assert told.state == "running"
        case Abandoned(held=held):
            assert told.state == ("unknown" if held else "abandoned")
        case _:  # claimed
            assert told is None


# The reply itself


def test_the_reply_is_handed_out_as_a_replay(redis_db, me):
    first = me.ask("/bookings/")
    again = me.ask("/bookings/")
    reply = me.key(reply=1)
    assert replayed(reply)
    assert (reply.status_code, reply.content) == (201, first.content)
    stored = {k: v for k, v in again.items() if k != "Cache-Control"}
    assert {k: v for k, v in reply.items() if k != "Cache-Control"} == stored
    assert Booking.objects.count() == 1


REFUSED = {
    "tombstone": "idempotency_key_expired",
    "not_kept": "idempotency_reply_not_kept",
    "unknown": "idempotency_outcome_unknown",
}


@pytest.mark.parametrize(("trait", "code"), REFUSED.items(), ids=REFUSED)
def test_a_reply_that_is_not_there_is_refused_as_a_retry_would_be(me, plant, trait, code):
    plant(**{trait: True})
    assert_refused(me.key(reply=1), 409, code)


def test_a_reply_that_is_on_its_way_may_be_asked_for_again(me, plant):
    plant(leased=True)
    assert_refused(me.key(reply=1), 409, "idempotency_in_progress", retry_after=True)


@pytest.mark.parametrize("trait", ["lapsed", "abandoned"])
def test_an_abandoned_key_has_no_reply_and_a_retry_makes_one(me, plant, trait):
    plant(**{trait: True})
    assert me.key(reply=1).status_code == 404


def test_the_reply_of_a_job_under_way_is_its_document(me, plant_job):
    job = plant_job(running=True)
    reply = me.key(reply=1)
    assert (reply.status_code, reply["Retry-After"]) == (202, "1")
    assert reply["Location"] == f"/idempotency/jobs/{job.pk}/"
    assert reply.json() == me.get(reply["Location"]).json()


# Keys and parameters in the URL

ODD_KEYS = ["a/b", "/", "a//b/", "a b", " ", "%2F", "100%", 'say "hi"', "a?b#c", "\\", "k;v=1,2"]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_may_hold_anything_printable(me, plant, key):
    plant(key=key)
    plant(key=f"{key}x")
    assert me.key(key).json()["state"] == "finished"
    reversed_ = reverse("idempotency:key", args=[key])
    assert me.get(reversed_, {"operation": OPERATION}).json()["state"] == "finished"


@pytest.mark.parametrize("key", ["caf\xe9", "a\tb", "a\0b", "k" * 256], ids=ascii)
def test_a_malformed_key_is_the_usual_refusal(me, key):
    assert statements(lambda: me.key(key)) == []
    assert_refused(me.key(key), 400, "idempotency_key_invalid")


@pytest.mark.parametrize("query", ["", "?operation=", "?operation=a/b", "?operation=a&operation=b"])
def test_the_operation_must_be_named(me, query):
    response = me.get(f"/idempotency/keys/k-1/{query}")
    assert response.status_code == 400
    assert "?operation=" in response.json()["operation"][0]


@pytest.mark.parametrize("value", ["0", "true", ""])
def test_what_reply_means_is_not_guessed(me, plant, value):
    plant()
    response = me.key(reply=value)
    assert response.status_code == 400
    assert "reply=1" in response.json()["reply"][0]


# Whose key it is


def test_other_callers_keys_are_unknown(me, plant):
    plant()
    other = curious()
    assert me.key().status_code == 200
    assert other.key().status_code == other.key(reply=1).status_code == 404
    assert other.key().json() == other.key("never-used").json()


def test_other_operations_keys_are_unknown(me, plant):
    plant()
    assert me.key(operation="tests.Invoices.post").status_code == 404


def test_a_scope_narrows_the_look_as_it_narrows_the_request(redis_db, me):
    me.ask("/bookings/", scope="digest-of-user-1")
    assert me.key(scope="digest-of-user-1").status_code == 200
    assert me.key().status_code == me.key(scope="digest-of-user-2").status_code == 404


@pytest.mark.parametrize("narrowing", [None, "digest"])
@pytest.mark.parametrize("at", ["/idempotency", "/strangers"])
def test_strangers_share_a_scope_so_they_are_told_nothing(narrowing, at):
    """Whether nobody was authenticated, or a project's hook says so."""
    scope = identify("anon", OPERATION, narrowing, "").scope
    job = JobFactory.create(record__scope=scope, record__key="k-2")
    RecordFactory.create(scope=scope, key="k-1")
    stranger = Curious() if at == "/idempotency" else curious()
    for query in ({}, {"reply": 1}, {"operation": ""}):
        assert stranger.key(at=at, scope=narrowing, **query).status_code == 404
    assert Curious().job(job.pk, scope=narrowing).status_code == 404


def test_a_project_that_names_its_callers_does_so_here_too(redis_db):
    ada, bob = (curious(UserFactory.create(username=name)) for name in ("ada", "bob"))
    ada.ask("/tenant-bookings/")
    scope = identify("tenant:ada", "bookings", None, "").scope
    job = JobFactory.create(record__scope=scope)
    assert ada.key(at="/tenants", operation="bookings").status_code == 200
    assert bob.key(at="/tenants", operation="bookings").status_code == 404
    assert ada.key(operation="bookings").status_code == 404
    assert ada.job(job.pk, at="/tenants").status_code == 200
    assert bob.job(job.pk, at="/tenants").status_code == 404
    assert ada.job(job.pk).status_code == 404


# Jobs


@pytest.mark.parametrize("status", JOBS)
def test_a_job_is_its_document(me, plant_job, status):
    job = plant_job(**({} if status == "queued" else {status: True}))
    response = me.job(job.pk)
    assert response.status_code == 200
    assert response.json() == document(jobs.view_of(job))
    assert ("Retry-After" in response) is (status in ("queued", "running"))


def test_a_job_is_shown_as_long_as_its_key_is_refused(me, plant_job):
    """And no longer, whether it was purged or not."""
    expired = plant_job(succeeded=True, record__tombstone=True)
    forgotten = plant_job(succeeded=True, record__forgotten=True, record__key="k-2")
    assert me.job(expired.pk).status_code == 200
    assert me.job(forgotten.pk).status_code == 404


def test_other_callers_jobs_are_unknown(me, plant_job):
    """By the caller, by the narrowing, and in the same words as no job at all."""
    job = plant_job()
    assert me.job(job.pk).status_code == 200
    other = curious().job(job.pk)
    narrowed, none = me.job(job.pk, scope="digest"), me.job(uuid4())
    assert other.status_code == narrowed.status_code == none.status_code == 404
    assert other.json() == narrowed.json() == none.json()


def test_a_job_that_nobody_can_read_any_more_is_refused_to_its_caller_only(me, plant_job, settings):
    """Not told as a job without a result, and no sign of it to others."""
    settings.IDEMPOTENCY_ENCRYPTION_KEYS = [Fernet.generate_key()]
    job = plant_job(succeeded=True, result=encryption.seal_text('{"enrolled":10}'))
    assert me.job(job.pk).json()["result"] == {"enrolled": 10}
    settings.IDEMPOTENCY_ENCRYPTION_KEYS = [Fernet.generate_key()]
    assert_refused(me.job(job.pk), 409, "idempotency_reply_not_kept")
    assert curious().job(job.pk).status_code == 404


def test_a_narrowed_job_is_found_by_its_scope_only(me, user, plant_job):
    job = plant_job(record__scope=scope_of(user, "digest"))
    assert me.job(job.pk, scope="digest").status_code == 200
    assert me.job(job.pk).status_code == 404


@pytest.mark.vendors("postgresql", "mysql")
def test_the_location_of_a_started_job_is_its_look_up(redis_db, me):
    started = me.ask("/imports/", {"course": "CS101"})
    assert started.status_code == 202
    found = me.get(started["Location"])
    assert (found.status_code, found.json()) == (200, started.json())
    assert found.json()["id"] == str(Job.objects.get().pk)
    assert curious().get(started["Location"]).status_code == 404


# What both have in common


def test_each_look_is_one_statement(me, plant_job):
    """Whether there is something to tell or not; `me` authenticates without any."""
    job, other = plant_job(succeeded=True), curious()
    assert statements(me.key) == ["SELECT"]
    assert statements(lambda: me.key(reply=1)) == ["SELECT"]
    assert statements(lambda: me.key("never-used")) == ["SELECT"]
    assert statements(lambda: me.job(job.pk)) == ["SELECT"]
    assert statements(lambda: other.job(job.pk)) == ["SELECT"]


def test_a_reply_is_read_only_where_it_is_asked_for(me, plant_job):
    """It may have a megabyte; so may the arguments of a job, which are nobody's to see."""
    job = plant_job(succeeded=True)
    with CaptureQueriesContext(connection) as queries:
        me.key()
        me.key(reply=1)
        me.job(job.pk)
    bare, with_reply, told = (query["sql"].partition(" FROM ")[0] for query in queries)
    body = connection.ops.quote_name("idempotency_record") + "." + connection.ops.quote_name("body")
    assert f"{body}," not in bare
    assert f"{body}," in with_reply
    assert body not in told
    assert not any("arguments" in q or "traceback" in q for q in (bare, with_reply, told))


def test_nothing_of_it_may_be_cached(redis_db, me, plant_job):
    """Refusals too, and replies that said otherwise."""
    me.ask("/bookings/", key="k-2")
    job = plant_job()
    answers = [
        me.key(),
        me.key("k-2", reply=1),
        me.key(reply=1),
        me.key("never-used"),
        me.key(operation=""),
        me.key("caf\xe9"),
        me.job(job.pk),
        me.job(uuid4()),
        me.post("/idempotency/keys/k-1/"),
        Curious().key(at="/closed"),
    ]
    statuses = [200, 201, 202, 404, 400, 400, 200, 404, 405, 403]
    assert [answer.status_code for answer in answers] == statuses
    assert {answer["Cache-Control"] for answer in answers} == {"no-store"}


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_it_only_reads(me, plant_job, method):
    job = plant_job()
    for url in (f"/idempotency/keys/k-1/?operation={OPERATION}", f"/idempotency/jobs/{job.pk}/"):
        assert me.ask(url, {}, method=method).status_code == 405
    assert list(IdempotencyRecord.objects.values_list("key", flat=True)) == ["k-1"]


def test_head_and_options_are_answered(me, plant_job):
    job = plant_job()
    for url in (f"/idempotency/keys/k-1/?operation={OPERATION}", f"/idempotency/jobs/{job.pk}/"):
        assert (me.head(url).status_code, me.options(url).status_code) == (200, 200)
        assert me.head(url).content == b""


def test_the_views_permissions_come_first(plant):
    assert statements(lambda: Curious().key(at="/closed")) == []
    assert Curious().key(at="/closed").status_code == 403


def test_a_prefix_of_the_project_may_capture_something(me, plant_job):
    """A version in the URL, say."""
    job = plant_job()
    assert me.key(at="/v1/idempotency").status_code == 200
    assert me.job(job.pk, at="/v1/idempotency").status_code == 200


class ReadsGoToTheReplica:
    def db_for_read(self, model, **hints):
        return "replica"

    def db_for_write(self, model, **hints):
        return "default"


def test_a_replica_is_not_asked(settings, me, plant_job):
    """It may not know yet. There is none here, so asking it would be an error."""
    job = plant_job()
    settings.DATABASE_ROUTERS = [f"{__name__}.ReadsGoToTheReplica"]
    assert me.key().status_code == me.job(job.pk).status_code == 200


def test_another_alias_may_be_named(me, plant):
    """There is none here, so asking it is an error."""
    plant()
    assert me.key(at="/elsewhere").status_code == 500


@pytest.mark.vendors("postgresql", "mysql")
@pytest.mark.django_db(transaction=True)
def test_a_ledger_out_of_reach_is_said(me, plant_job, monkeypatch, closed_port):
    """As of any request that needs it; of authentication that needs it, too."""
    job = plant_job()
    by_session = Curious()
    by_session.force_login(UserFactory.create())
    monkeypatch.setitem(connection.settings_dict, "PORT", closed_port)
    connection.close()
    refused = [me.key(), me.job(job.pk), by_session.key()]
    monkeypatch.undo()
    connection.close()
    for answer in refused:
        assert_refused(answer, 503, "idempotency_unavailable", retry_after=True)
        assert answer["Cache-Control"] == "no-store"
    assert me.key().status_code == 200
