"""Which views and actions the mixin protects, and what it says about a wrong declaration."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.urls import include, path
from rest_framework import generics, mixins, routers, viewsets
from rest_framework.decorators import action
from rest_framework.response import Response
from rest_framework.views import APIView

from idempotency.models import IdempotencyRecord
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.app.models import Booking
from tests.factories import BookingFactory
from tests.http.asking import (
    BookingSerializer,
    assert_refused,
    assert_same_reply,
    assert_untouched,
    replayed,
)

ONE = {"name": "one", "seats": 1}


class BookingViewSet(IdempotencyMixin, viewsets.ModelViewSet):
    queryset = Booking.objects.order_by("pk")
    serializer_class = BookingSerializer

    @action(detail=True, methods=["post"], idempotency_policy=Policy(required=True))
    def withdraw(self, request, pk):
        return Response({"withdrawn": Booking.objects.create(name=f"withdrawn {pk}").pk})

    @withdraw.mapping.delete
    def restore(self, request, pk):
        return Response({"restored": Booking.objects.create(name=f"restored {pk}").pk})

    @action(detail=True, methods=["get", "post"], idempotency_policy=Policy())
    def notes(self, request, pk):
        return Response({"noted": Booking.objects.create(name=f"note {pk}").pk})

    @action(detail=True, methods=["post"])
    def plain(self, request, pk):
        return Response({"plain": Booking.objects.create(name=f"plain {pk}").pk})

    @action(detail=False, methods=["post"], idempotency_policy=Policy(), url_path="import")
    def import_all(self, request):
        return Response({"imported": Booking.objects.create(name="imported").pk})


class OwnCreate(IdempotencyMixin, viewsets.ModelViewSet):
    """Overrides create() itself, and calls no super()."""

    queryset = Booking.objects.all()
    serializer_class = BookingSerializer

    def create(self, request):
        return Response({"id": Booking.objects.create(name="own").pk}, status=201)


class CreateOnly(IdempotencyMixin, mixins.CreateModelMixin, viewsets.GenericViewSet):
    queryset = Booking.objects.all()
    serializer_class = BookingSerializer


class Bare(IdempotencyMixin, viewsets.ViewSet):
    def create(self, request):
        return Response({"id": Booking.objects.create(name="bare").pk}, status=201)


class Everything(IdempotencyMixin, viewsets.ModelViewSet):
    queryset = Booking.objects.order_by("pk")
    serializer_class = BookingSerializer
    idempotency_actions = {"create", "update", "partial_update", "destroy"}


class Create(IdempotencyMixin, generics.CreateAPIView):
    queryset = Booking.objects.all()
    serializer_class = BookingSerializer


class Detail(IdempotencyMixin, generics.RetrieveUpdateDestroyAPIView):
    queryset = Booking.objects.all()
    serializer_class = BookingSerializer
    idempotency_actions = frozenset({"put", "patch", "delete"})


class Plain(IdempotencyMixin, APIView):
    def post(self, request):
        return Response({"id": Booking.objects.create(name="plain").pk}, status=201)


class Unprotected(IdempotencyMixin, APIView):
    idempotency_actions = frozenset()

    def post(self, request):
        return Response({"id": Booking.objects.create(name="plain").pk}, status=201)


class Heir(OwnCreate):
    """A class of its own, so an operation of its own."""


router = routers.DefaultRouter()
router.register("bookings", BookingViewSet)
router.register("own", OwnCreate, basename="own")
router.register("heir", Heir, basename="heir")
router.register("create-only", CreateOnly, basename="create-only")
router.register("bare", Bare, basename="bare")
router.register("everything", Everything, basename="everything")
urlpatterns = [
    path("", include(router.urls)),
    path("mapped/", BookingViewSet.as_view({"post": "create", "get": "list"})),
    path("mapped/<int:pk>/", BookingViewSet.as_view({"post": "withdraw", "delete": "restore"})),
    path("renamed/", BookingViewSet.as_view({"put": "create"})),
    path("generic/", Create.as_view()),
    path("detail/<int:pk>/", Detail.as_view()),
    path("plain/", Plain.as_view()),
    path("unprotected/", Unprotected.as_view()),
    path("named/", Plain.as_view(idempotency_operation="bookings:create")),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


# Protected by default


@pytest.mark.parametrize(
    "url",
    [
        "/bookings/",
        "/own/",
        "/heir/",
        "/create-only/",
        "/bare/",
        "/everything/",
        "/mapped/",
        "/generic/",
        "/plain/",
    ],
)
def test_create_is_protected_on_every_kind_of_view(redis_db, api, url):
    """Through routers and as_view(actions), whoever wrote create() or post()."""
    assert_same_reply(api.ask(url, ONE), api.ask(url, ONE))
    assert Booking.objects.count() == 1


def test_an_action_is_protected_by_its_name_whatever_its_method(redis_db, api):
    assert_same_reply(*(api.ask("/renamed/", ONE, method="put") for _ in range(2)))


def test_an_inherited_view_is_another_operation(redis_db, api):
    api.ask("/own/", ONE)
    assert not replayed(api.ask("/heir/", ONE))


@pytest.mark.parametrize(
    ("url", "operation"),
    [
        ("/bookings/", "tests.BookingViewSet.create"),
        ("/plain/", "tests.Plain.post"),
        ("/bookings/import/", "tests.BookingViewSet.import_all"),
        ("/named/", "bookings:create"),
    ],
)
def test_the_operation_names_label_class_and_action(redis_db, api, url, operation):
    api.ask(url, ONE)
    record = IdempotencyRecord.objects.get()
    assert (record.operation, record.scope) == (operation, f"anon/{operation}")


@pytest.mark.parametrize("url", ["/unprotected/", "/bookings/{pk}/plain/"])
def test_what_is_not_named_is_not_protected(redis_db, api, url):
    url = url.format(pk=BookingFactory.create().pk)
    assert [replayed(api.ask(url)) for _ in range(2)] == [False, False]
    assert Booking.objects.count() >= 2
    assert_untouched(redis_db)


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_other_unsafe_actions_are_left_alone_by_default(redis_db, api, method):
    url = f"/bookings/{BookingFactory.create().pk}/"
    assert not replayed(api.ask(url, ONE, method=method))
    assert not replayed(api.ask(url, ONE, method=method))
    assert_untouched(redis_db)


# Named actions and methods


@pytest.mark.parametrize("url", ["/everything/{pk}/", "/detail/{pk}/"])
@pytest.mark.parametrize(("method", "status"), [("put", 200), ("patch", 200), ("delete", 204)])
def test_named_actions_and_methods_are_protected(redis_db, api, url, method, status):
    """A repeated DELETE gets its 204 again, not the 404 of what is gone."""
    booking = BookingFactory.create(name="old")
    url = url.format(pk=booking.pk)
    first = api.ask(url, ONE, method=method)
    Booking.objects.update(name="changed since")
    assert first.status_code == status
    assert_same_reply(first, api.ask(url, ONE, method=method))
    assert not Booking.objects.filter(name="one").exists()


@pytest.mark.parametrize("url", ["/everything/{pk}/", "/detail/{pk}/"])
@pytest.mark.parametrize("method", ["get", "head", "options"])
def test_safe_methods_of_a_protected_view_are_answered_afresh(redis_db, api, url, method):
    url = url.format(pk=BookingFactory.create().pk)
    for _ in range(2):
        response = api.ask(url, method=method)
        assert (response.status_code, replayed(response)) == (200, False)
    assert_untouched(redis_db)


def test_one_key_for_two_actions_of_a_view_is_two_executions(redis_db, api):
    """The action is part of the operation."""
    url = f"/everything/{BookingFactory.create().pk}/"
    assert not replayed(api.ask(url, ONE, method="put"))
    assert not replayed(api.ask(url, ONE, method="patch"))
    assert not replayed(api.ask(url, method="delete"))


# Policies on actions


@pytest.mark.parametrize("url", ["/bookings/{pk}/withdraw/", "/mapped/{pk}/"])
@pytest.mark.parametrize("method", ["post", "delete"])
def test_an_action_with_a_policy_of_its_own_is_protected_by_it(redis_db, api, url, method):
    """Its mapped methods too, through a router or by hand."""
    url = url.format(pk=BookingFactory.create().pk)
    missing = api.ask(url, key=None, method=method)
    assert_refused(missing, 400, "idempotency_key_required")
    assert_same_reply(api.ask(url, method=method), api.ask(url, method=method))
    assert Booking.objects.count() == 2


def test_the_views_own_policy_is_untouched_by_an_actions(redis_db, api):
    """create() needs no key, though withdraw() does."""
    assert api.ask("/bookings/", ONE, key=None).status_code == 201


def test_the_safe_methods_of_an_action_with_a_policy_are_left_alone(redis_db, api):
    """`notes` answers GET and POST by one function."""
    url = f"/bookings/{BookingFactory.create().pk}/notes/"
    assert [replayed(api.ask(url, method="get")) for _ in range(2)] == [False, False]
    assert_same_reply(api.ask(url), api.ask(url))
    assert Booking.objects.count() == 4


# Wrong declarations


@pytest.mark.parametrize("base", [APIView, viewsets.ModelViewSet, generics.CreateAPIView])
def test_the_wrong_order_of_bases_raises_when_the_class_is_defined(base):
    with pytest.raises(TypeError, match=r"Wrong: IdempotencyMixin must stand before"):
        type("Wrong", (base, IdempotencyMixin), {})


def test_a_mixin_of_the_projects_own_may_be_defined_without_a_view():
    house = type("House", (IdempotencyMixin,), {})
    with pytest.raises(TypeError, match="must stand before"):
        type("Wrong", (APIView, house), {})
    right: Any = type("Right", (house, APIView), {})
    assert right.as_view()


@pytest.mark.parametrize(
    ("base", "attributes"),
    [
        (BookingViewSet, {"idempotency_actions": {"creat"}}),
        (BookingViewSet, {"idempotency_actions": "create"}),
        (BookingViewSet, {"idempotency_actions": ["create"]}),
        (BookingViewSet, {"idempotency_actions": {"queryset"}}),
        (Plain, {"idempotency_actions": {"POST"}}),
        (Plain, {"idempotency_actions": {"create"}}),
        (Plain, {"idempotency_actions": {"get"}}),
        (Plain, {"idempotency_policy": None}),
        (Plain, {"idempotency_policy": {"required": True}}),
        (Plain, {"idempotency_policy": Policy}),
    ],
)
def test_a_misspelt_declaration_raises_instead_of_protecting_nothing(base, attributes):
    """When the URLs are loaded, naming the class."""
    wrong: Any = type("Wrong", (base,), attributes)
    actions = [{"post": "create"}] if issubclass(base, viewsets.ViewSetMixin) else []
    with pytest.raises(ImproperlyConfigured, match="Wrong"):
        wrong.as_view(*actions)


def test_an_actions_policy_must_be_a_policy():
    class Wrong(BookingViewSet):
        @action(detail=True, methods=["post"], idempotency_policy={"required": True})
        def wrong(self, request, pk):
            raise NotImplementedError

    with pytest.raises(ImproperlyConfigured, match="Wrong"):
        Wrong.as_view({"post": "create"})


@pytest.mark.parametrize("policy", [None, {"required": True}])
def test_a_policy_given_to_as_view_must_be_a_policy(policy):
    """Found when the URLs are loaded, not by the first request."""
    with pytest.raises(ImproperlyConfigured, match="Plain"):
        Plain.as_view(idempotency_policy=policy)


@pytest.mark.parametrize("name", ["a/b", "ü", "x" * 129])
def test_an_operations_name_is_checked_when_the_urls_are_loaded(name):
    """Not by a 500 to the first client."""
    wrong: Any = type("Wrong", (Plain,), {"idempotency_operation": name})
    with pytest.raises((ImproperlyConfigured, ValueError)):
        wrong.as_view()
