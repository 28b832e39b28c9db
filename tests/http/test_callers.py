"""Whose key it is: no reply crosses from one caller, operation or scope to another."""

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.urls import path
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.authentication import BaseAuthentication, TokenAuthentication
from rest_framework.permissions import IsAuthenticated
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.identity import identify
from idempotency.models import IdempotencyRecord
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.factories import UserFactory
from tests.http.asking import caller_of, replayed


class ByHeader(BaseAuthentication):
    """Authenticates what is no user: a bare token, claims, or something odd."""

    def authenticate(self, request):
        meta = request.META
        if "HTTP_X_TOKEN" in meta:
            return None, meta["HTTP_X_TOKEN"]
        if "HTTP_X_SUB" in meta:
            return AnonymousUser(), {"iss": meta.get("HTTP_X_ISS"), "sub": meta["HTTP_X_SUB"]}
        if "HTTP_X_KEYLESS" in meta:
            return SimpleNamespace(is_authenticated=True, pk=None), None
        return (None, object()) if "HTTP_X_ODD" in meta else None


class Bookings(IdempotencyMixin, APIView):
    authentication_classes = [TokenAuthentication, ByHeader]

    def post(self, request):
        return Response({"id": Booking.objects.create(name="one").pk}, status=201)


class Closed(Bookings):
    permission_classes = [IsAuthenticated]


class Invoices(Bookings):
    pass


class Named(Bookings):
    """Its hook names the caller as a header says: dangerous, and here to be attacked."""

    def get_idempotency_caller(self, request):
        return request.META["HTTP_X_CALLER"]


urlpatterns = [
    path("bookings/", Bookings.as_view()),
    path("closed/", Closed.as_view()),
    path("invoices/", Invoices.as_view()),
    path("same-name/", Invoices.as_view(idempotency_operation="tests.Bookings.post")),
    path("named/", Named.as_view()),
    path("named-other/", Named.as_view(idempotency_operation="tests.Named.postother")),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


def scopes() -> set[str]:
    return set(IdempotencyRecord.objects.values_list("scope", flat=True))


# Users


@pytest.mark.django_db(transaction=True)
def test_two_users_with_one_key_are_two_executions(redis_db):
    """Each replays its own, from cache and ledger."""
    callers = [caller_of(UserFactory.create()) for _ in range(2)]
    first = [caller.ask("/closed/") for caller in callers]
    again = [caller.ask("/closed/") for caller in callers]
    redis_db.flushdb()
    later = [caller.ask("/closed/") for caller in callers]
    assert not any(map(replayed, first))
    assert all(map(replayed, again + later))
    assert first[0].json() != first[1].json()
    assert [r.json() for r in again] == [r.json() for r in later] == [r.json() for r in first]


def test_a_user_is_the_same_with_another_token_or_session(redis_db):
    """The user's primary key names the caller, not the credential."""
    user = UserFactory.create()
    by_token = caller_of(user)
    by_token.ask("/bookings/")
    user.auth_token.delete()
    assert replayed(caller_of(user).ask("/bookings/"))
    assert scopes() == {f"user:{user.pk}/tests.Bookings.post"}


def test_anonymous_callers_share_a_space_that_no_user_is_in(redis_db, api):
    """Anonymous, `anon` can be no user's name; every other anonymous caller is the same."""
    api.ask("/bookings/")
    assert not replayed(caller_of(UserFactory.create()).ask("/bookings/"))
    assert replayed(api.ask("/bookings/"))
    assert "anon/tests.Bookings.post" in scopes()


# request.auth without a user


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ({"X-Token": "a"}, {"X-Token": "b"}),
        ({"X-Sub": "a"}, {"X-Sub": "b"}),
        ({"X-Sub": "a", "X-Iss": "x"}, {"X-Sub": "a", "X-Iss": "y"}),
        ({"X-Sub": "a", "X-Iss": "b"}, {"X-Sub": "b", "X-Iss": "a"}),
        ({"X-Token": "a"}, {}),
    ],
    ids=["token", "subject", "issuer", "swapped", "anonymous"],
)
def test_what_authenticated_names_a_caller_without_a_user(redis_db, api, first, other):
    assert not replayed(api.ask("/bookings/", headers=first))
    assert not replayed(api.ask("/bookings/", headers=other))
    assert replayed(api.ask("/bookings/", headers=first))


def test_a_token_is_not_kept_in_the_scope(redis_db, api):
    api.ask("/bookings/", headers={"X-Token": "secret-token"})
    assert not any("secret" in scope for scope in scopes())


@pytest.mark.parametrize("header", ["X-Odd", "X-Keyless"])
def test_an_identity_that_cannot_be_named_is_a_configuration_error(redis_db, api, header):
    """A guess could give two callers one name, so there is none; nor are they anonymous."""
    api.raise_request_exception = True
    with pytest.raises(ImproperlyConfigured, match="get_idempotency_caller"):
        api.ask("/bookings/", headers={header: "1"})
    assert not scopes()


# Operations


def test_two_operations_with_one_key_are_two_executions(redis_db, api):
    assert not replayed(api.ask("/bookings/"))
    assert not replayed(api.ask("/invoices/"))
    assert scopes() == {"anon/tests.Bookings.post", "anon/tests.Invoices.post"}


def test_an_operation_that_is_named_keeps_its_keys_when_the_class_moves(redis_db, api):
    """Another path is another route, so what shows the shared space is the refusal."""
    api.ask("/bookings/")
    assert api.ask("/same-name/").json()["code"] == "idempotency_key_reused"


# Idempotency-Scope


def test_a_scope_narrows_the_callers_own_space(redis_db):
    """Two users of one child service: the service is the caller, the scope tells them apart."""
    service = caller_of(UserFactory.create())
    first = service.ask("/closed/", scope="digest-of-user-1")
    assert not replayed(service.ask("/closed/", scope="digest-of-user-2"))
    assert not replayed(service.ask("/closed/"))
    again = service.ask("/closed/", scope="digest-of-user-1")
    assert (replayed(again), again.json()) == (True, first.json())


def test_a_scope_never_stands_in_for_the_caller(redis_db, api):
    """Needs no trust: whatever a stranger sends, the space is a part of their own."""
    user = UserFactory.create()
    known = caller_of(user)
    known.ask("/bookings/")
    known.ask("/bookings/", scope="narrow")
    narrowed = next(scope for scope in scopes() if "+" in scope)
    for guess in ("narrow", f"user:{user.pk}", narrowed, "", "/", "+"):
        assert not replayed(api.ask("/bookings/", scope=guess))


def test_any_scope_value_is_hashed(redis_db, api):
    """As long and as odd as it may be; it is in no record."""
    for scope in ("x" * 4000, "a/b+c", "caf\xe9"):
        assert (
            api.post(
                "/bookings/", HTTP_IDEMPOTENCY_KEY="k", HTTP_IDEMPOTENCY_SCOPE=scope
            ).status_code
            == 201
        )
    assert len(scopes()) == 3
    assert all(len(scope) < 100 and "x" * 9 not in scope for scope in scopes())


def test_a_child_key_remembers_its_parent(redis_db, api):
    """Only where a scope came with it: else a dash is just a dash."""
    api.ask("/bookings/", key="parent-1-billing", scope="digest")
    api.ask("/bookings/", key="parent-1-billing")
    assert set(IdempotencyRecord.objects.values_list("parent_key", flat=True)) == {"parent-1", ""}


# Built to collide

DIGEST_OF_X = "2d711642b726b04401627ca9fbac32f5"  # sha256("x"), as a narrowed scope shows it


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (("a", None, "k"), ("a/tests.Named.post", None, "k")),
        (("a", None, "b-k"), ("a-b", None, "k")),
        (("a/b", None, "k"), ("a%2Fb", None, "k")),
        (("a", "x", "k"), (f"a+{DIGEST_OF_X}", None, "k")),
        (("a", "x", "k"), ("a+x", None, "k")),
        (("", "x", "k"), (f"+{DIGEST_OF_X}", None, "k")),
        (("a", "", "k"), ("a", None, "k")),
        (("é", None, "k"), ("%C3%A9", None, "k")),
        (("x" * 400 + "a", None, "k"), ("x" * 400 + "b", None, "k")),
        (("A", None, "k"), ("a", None, "k")),
    ],
)
def test_callers_scopes_and_keys_never_join_to_another(redis_db, api, first, other):
    def ask(caller, scope, key):
        return api.post(
            "/named/",
            HTTP_X_CALLER=caller,
            HTTP_IDEMPOTENCY_KEY=key,
            **({} if scope is None else {"HTTP_IDEMPOTENCY_SCOPE": scope}),
        )

    assert ask(*first).status_code == 201
    assert not replayed(ask(*other))
    assert replayed(ask(*first))


def test_an_operation_never_joins_with_the_caller_or_the_key(redis_db, api):
    """`post` with key `other...` is not `postother`."""
    ask = {"HTTP_X_CALLER": "a"}
    api.post("/named/", HTTP_IDEMPOTENCY_KEY="other", **ask)
    assert not replayed(api.post("/named-other/", HTTP_IDEMPOTENCY_KEY="k", **ask))
    assert len(scopes()) == 2


names = st.text(st.characters(codec="utf-8"), max_size=300) | st.sampled_from(
    ["a", "a/b", "a+b", "a%2Fb", f"a+{DIGEST_OF_X}", "", "/", "+"]
)
operations = st.sampled_from(["b", "b.c", "c", "b~b"])
identities = st.tuples(
    names, operations, st.none() | names, st.sampled_from(["k", "b/k", "k-1", "1"])
)


@given(identities, identities)
def test_two_identities_share_nothing(first, other):
    """Neither (scope, key) nor the digest that names them in Redis."""
    one, two = identify(*first), identify(*other)
    same = first == other
    assert ((one.scope, one.key) == (two.scope, two.key)) is same
    assert (one.digest == two.digest) is same
    assert one.scope.isascii()
    assert len(one.scope) <= 255
