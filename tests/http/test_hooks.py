"""Policies and callers by hook, settings read per request, and the observing mode."""

import pytest
from django.urls import path
from rest_framework.authentication import TokenAuthentication
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.keys import child_key, current_key, current_scope_digest
from idempotency.models import IdempotencyRecord
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.factories import UserFactory
from tests.http.asking import assert_refused, assert_same_reply, caller_of, replayed


class Bookings(IdempotencyMixin, APIView):
    authentication_classes = [TokenAuthentication]

    def post(self, request):
        return Response({"id": Booking.objects.create(name="one").pk}, status=201)


class Lenient(Bookings):
    idempotency_policy = Policy(mismatch="lenient", required=False)


class ByTier(Bookings):
    """The policy follows the request: large orders need a key."""

    def get_idempotency_policy(self):
        policy = super().get_idempotency_policy()
        return Policy(required=True) if "large" in self.request.data else policy


class ByTenant(Bookings):
    """All users of a tenant are one caller, and the hook sees who was authenticated."""

    def get_idempotency_caller(self, request):
        tenant = request.user.username.partition("-")[0]
        return f"tenant:{tenant}"


class Running(Bookings):
    """Tells what runs, as a handler that calls other services would."""

    def post(self, request):
        try:
            running = [current_key(), child_key("billing"), current_scope_digest()]
        except LookupError:
            running = []
        return Response(running)


class Observed(Bookings):
    idempotency_policy = Policy(mode="observe", required=True, key_format="uuid|k-.*")

    def post(self, request):
        super().post(request)
        return Response({"id": 1}, status=request.data.get("status", 201))


urlpatterns = [
    path("bookings/", Bookings.as_view()),
    path("lenient/", Lenient.as_view()),
    path("by-tier/", ByTier.as_view()),
    path("by-tenant/", ByTenant.as_view()),
    path("running/", Running.as_view()),
    path("observed/", Observed.as_view()),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


# Settings


def test_a_setting_holds_from_the_next_request_on(redis_db, api, settings):
    """Nothing is read at import: the views are the same."""
    assert api.ask("/bookings/", key=None).status_code == 201
    settings.IDEMPOTENCY_REQUIRED = True
    assert_refused(api.ask("/bookings/", key=None), 400, "idempotency_key_required")
    api.ask("/bookings/", {"a": 1})
    assert api.ask("/bookings/", {"a": 2}).status_code == 409
    settings.IDEMPOTENCY_MISMATCH = "lenient"
    assert replayed(api.ask("/bookings/", {"a": 2}))


def test_a_policy_outranks_the_settings(redis_db, api, settings):
    settings.IDEMPOTENCY_REQUIRED = True
    settings.IDEMPOTENCY_MISMATCH = "strict"
    assert api.ask("/lenient/", key=None).status_code == 201
    api.ask("/lenient/", {"a": 1})
    assert replayed(api.ask("/lenient/", {"a": 2}))


# Hooks


def test_the_policy_hook_decides_per_request(redis_db, api):
    assert api.ask("/by-tier/", {"small": 1}, key=None).status_code == 201
    refused = api.ask("/by-tier/", {"large": 1}, key=None)
    assert_refused(refused, 400, "idempotency_key_required")


def test_the_caller_hook_names_the_key_space(redis_db):
    """Two users of one tenant share it; another tenant does not."""
    one, two, other = (
        caller_of(UserFactory.create(username=name)) for name in ("acme-1", "acme-2", "rival-1")
    )
    first = one.ask("/by-tenant/")
    assert_same_reply(first, two.ask("/by-tenant/"))
    assert not replayed(other.ask("/by-tenant/"))
    assert IdempotencyRecord.objects.filter(scope__startswith="tenant:acme/").count() == 1


def test_a_handler_knows_its_key_and_derives_its_childrens(redis_db):
    """In its own execution only; two callers' scopes differ, so their children do."""
    digests = set()
    for caller in (caller_of(UserFactory.create()), caller_of(UserFactory.create())):
        key, child, digest = caller.ask("/running/", key='"k 1"').json()
        assert (key, child) == ("k 1", "k 1-billing")
        digests.add(digest)
    assert len(digests) == 2
    assert caller.ask("/running/", key=None).json() == []
    with pytest.raises(LookupError):
        current_key()


# Observing


def test_observing_refuses_nothing_and_counts_everything(redis_db, api, happened):
    """Every request runs; what would have been is told."""
    asked = [
        (None, {}),
        ("not the format", {}),
        ("k-1", {"a": 1}),
        ("k-1", {"a": 1}),
        ("k-1", {"a": 2}),
    ]
    answers = [api.ask("/observed/", body, key=key) for key, body in asked]
    assert [answer.status_code for answer in answers] == [201] * 5
    assert not any(map(replayed, answers))
    assert Booking.objects.count() == 5
    assert happened.named("refused") == ["idempotency_key_required", "idempotency_key_invalid"]
    assert happened.named("observed") == [
        "executed_by_fingerprint",  # without a key that can be used
        "replayed_by_fingerprint",
        "executed",
        "replayed",
        "idempotency_key_reused",
    ]


def test_observing_by_setting(redis_db, api, happened, settings):
    settings.IDEMPOTENCY_MODE = "observe"
    assert [replayed(api.ask("/bookings/")) for _ in range(2)] == [False, False]
    assert happened.named("observed") == ["executed", "replayed"]


def test_what_was_observed_is_replayed_once_the_mode_is_enforce(redis_db, api, settings):
    """The records are real, so switching over needs no warm-up."""
    settings.IDEMPOTENCY_MODE = "observe"
    first = api.ask("/bookings/")
    settings.IDEMPOTENCY_MODE = "enforce"
    assert_same_reply(first, api.ask("/bookings/"))


@pytest.mark.parametrize("status", [500, 503])
def test_an_observed_server_error_is_undone_and_leaves_the_key_free(redis_db, api, status):
    assert api.ask("/observed/", {"status": status}).status_code == status
    assert not Booking.objects.exists()
    assert not IdempotencyRecord.objects.exists()
