"""Beside what a project says of its views itself: by decorators, schemas and extensions."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.urls import include, path
from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_view,
)
from rest_framework import serializers, viewsets
from rest_framework.decorators import action, api_view, permission_classes
from rest_framework.permissions import AllowAny
from rest_framework.response import Response
from rest_framework.schemas.openapi import AutoSchema as OtherAutoSchema
from rest_framework.views import APIView

from idempotency.contrib.spectacular.views import ProtectedViews
from idempotency.decorators import idempotent_view
from idempotency.lookup import JobLookup
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin
from tests.contrib.described import (
    Order,
    OrderViewSet,
    codes,
    operation,
    orders,
    parameter,
    schema_of,
)
from tests.http.asking import Caller, replayed

LOOKUPS = path("idempotency/", include("idempotency.urls"))


# Which operations


@pytest.mark.parametrize("method", ["get", "put"])
def test_unprotected_operations_are_left_alone(method: str) -> None:
    class Unprotected(OrderViewSet):
        idempotency_actions = frozenset()

    assert operation(method=method) == operation(orders(Unprotected), method=method)
    assert set(operation(method=method)["responses"]) == {"200"}
    assert parameter(operation(method=method)) is None


def test_views_without_the_mixin_are_left_alone() -> None:
    class Plain(viewsets.GenericViewSet):
        """Orders."""

        serializer_class = Order
        create = OrderViewSet.create
        list = OrderViewSet.list
        update = OrderViewSet.update

    assert set(operation(orders(Plain))["responses"]) == {"201"}


def test_actions_may_have_policies_of_their_own() -> None:
    class Captures(OrderViewSet):
        @action(detail=False, methods=["post"], idempotency_policy=Policy(required=True))
        def capture(self, request: Any) -> None: ...

    url = path("capture/", Captures.as_view({"post": "capture"}, **Captures.capture.kwargs))
    assert parameter(operation(url))["required"] is True
    assert "required" not in parameter(operation(orders(Captures)))


def test_methods_of_plain_views() -> None:
    class Pay(IdempotencyMixin, APIView):
        serializer_class = Order

        def post(self, request: Any) -> None: ...

        def put(self, request: Any) -> None: ...

    url = path("pay/", Pay.as_view())
    assert parameter(operation(url)) is not None
    assert parameter(operation(url, method="put")) is None


@extend_schema(request=Order, responses={201: Order})
@api_view(["GET", "POST"])
@permission_classes([AllowAny])
def book(request: Any) -> Response:
    """Books a seat."""
    return Response({"amount": 1}, status=201)


booked = idempotent_view(operation="book", policy=Policy(required=True))(book)
viewed = idempotent_view(operation="view")(
    OrderViewSet.as_view({"post": "create"}, idempotency_actions=frozenset())
)

urlpatterns = [path("book/", booked)]


def test_drfs_views_in_idempotent_view() -> None:
    url = path("book/", booked)
    assert parameter(operation(url))["required"] is True
    assert ("400", "key_required") in codes(operation(url))
    assert "Idempotent-Replayed" in operation(url)["responses"]["201"]["headers"]
    assert parameter(operation(url, method="get")) is None
    assert parameter(operation(path("book/", book))) is None
    assert parameter(operation(path("view/", viewed))) is not None


@pytest.mark.django_db(transaction=True)
@pytest.mark.urls(__name__)
def test_they_do_as_they_say(redis_db: Any) -> None:
    first, again = (Caller().ask("/book/", {"amount": 1}) for _ in range(2))
    assert (first.status_code, again.status_code, replayed(again)) == (201, 201, True)
    assert Caller().ask("/book/", {"amount": 1}, key=None).status_code == 400


# Policies that are chosen


def test_the_hook_is_asked() -> None:
    class Chooses(OrderViewSet):
        def get_idempotency_policy(self) -> Policy:
            return Policy(required=self.action == "create")

    assert parameter(operation(orders(Chooses)))["required"] is True


def test_a_hook_that_wants_a_real_request_is_told_of() -> None:
    class Fails(OrderViewSet):
        idempotency_policy = Policy(required=True)

        def get_idempotency_policy(self) -> Policy:
            raise LookupError("no tenant")

    assert parameter(operation(orders(Fails), warnings=1))["required"] is True


# What the project says itself


def test_its_own_words_stand() -> None:
    class Says(OrderViewSet):
        @extend_schema(
            operation_id="order",
            parameters=[
                OpenApiParameter("idempotency-key", str, "header", description="Ours."),
                OpenApiParameter("limit", int),
            ],
            responses={
                200: OpenApiResponse(Order, description="There already."),
                409: OpenApiResponse(Order, description="Sold out."),
            },
            examples=[OpenApiExample("one", {"amount": 1})],
        )
        def create(self, request: Any) -> None: ...

    described = operation(orders(Says))
    assert described["operationId"] == "order"
    assert parameter(described) is None
    assert parameter(described, "idempotency-key")["description"] == "Ours."
    assert [each["name"] for each in described["parameters"]] == [
        "Idempotency-Scope",
        "idempotency-key",
        "limit",
    ]
    assert {status for status in described["responses"] if status < "300"} == {"200"}
    conflict = described["responses"]["409"]
    assert conflict["description"] == "Sold out."
    assert set(conflict["content"]) == {"application/json", "application/problem+json"}


def test_it_may_describe_problems_of_its_own() -> None:
    class Says(OrderViewSet):
        @extend_schema(responses={(409, "application/problem+json"): Order})
        def create(self, request: Any) -> None: ...

    problem = operation(orders(Says))["responses"]["409"]["content"]["application/problem+json"]
    assert problem == {"schema": {"$ref": "#/components/schemas/Order"}}


def test_it_may_describe_a_job_by_status() -> None:
    class Says(OrderViewSet):
        idempotency_policy = Policy(execution="job")

        @extend_schema(responses={201: Order, 202: Order})
        def create(self, request: Any) -> None: ...

    responses = operation(orders(Says))["responses"]
    refs = {
        s: each["content"]["application/json"]["schema"]["$ref"]
        for s, each in responses.items()
        if s < "300"
    }
    assert {status: ref.rpartition("/")[2] for status, ref in refs.items()} == {
        "200": "IdempotencyJob",
        "201": "Order",
        "202": "Order",
    }


def test_what_it_leaves_out_stays_out() -> None:
    @extend_schema_view(create=extend_schema(exclude=True))
    class Hides(OrderViewSet):
        pass

    assert set(schema_of(orders(Hides))["paths"]["/orders/"]) == {"get", "put"}


class Tagged(AutoSchema):
    def get_tags(self) -> list[str]:
        return ["tagged"]


def test_schemas_of_its_own_do_their_work() -> None:
    class ByClass(OrderViewSet):
        schema = Tagged()

    @extend_schema(deprecated=True)
    class ByDecorator(ByClass):
        @extend_schema(summary="Orders it")
        def create(self, request: Any) -> None: ...

    for url in (orders(ByClass), orders(schema=Tagged())):
        assert operation(url)["tags"] == ["tagged"]
        assert codes(operation(url)) == codes(operation())
    described = operation(orders(ByDecorator))
    assert (described["tags"], described["summary"]) == (["tagged"], "Orders it")
    assert described["deprecated"] is True
    assert codes(described) == codes(operation())


def test_a_schema_that_is_not_drf_spectaculars_is_complained_of() -> None:
    class Other(OrderViewSet):
        schema = OtherAutoSchema()

    with pytest.raises(AssertionError, match="Incompatible AutoSchema"):
        schema_of(orders(Other))


@pytest.fixture
def extensions() -> Iterator[None]:
    """Extensions that a test makes are gone afterwards."""
    registry = OpenApiViewExtension._registry
    before = list(registry)
    yield
    registry[:] = before


def test_its_view_extensions_are_asked(extensions: None) -> None:
    class Mends(OpenApiViewExtension):
        target_class = OrderViewSet

        def view_replacement(self) -> Any:
            class Mended(self.target):  # type: ignore[misc,name-defined] # chosen at run time
                @extend_schema(summary="Mended", responses={204: None})
                def create(self, request: Any) -> None: ...

            return Mended

    described = operation()
    assert (described["summary"], "204" in described["responses"]) == ("Mended", True)
    assert parameter(described) is not None


def test_a_view_that_it_replaces_altogether_is_its_own_word(extensions: None) -> None:
    class Other(viewsets.GenericViewSet):
        serializer_class = Order

        def create(self, request: Any) -> None: ...

        def list(self, request: Any) -> None: ...

        def update(self, request: Any) -> None: ...

    class Replaces(OpenApiViewExtension):
        target_class = OrderViewSet

        def view_replacement(self) -> Any:
            return Other

    assert set(operation()["responses"]) == {"201"}


def test_lookups_that_it_has_described_stand() -> None:
    class OwnJobs(JobLookup):
        @extend_schema(responses={200: OpenApiTypes.OBJECT})
        def get(self, request: Any, job_id: Any, **kwargs: Any) -> Any: ...

    class OtherJobs(JobLookup):
        pass

    own = path("jobs/<uuid:job_id>/", OwnJobs.as_view())
    assert set(operation(own, method="get")["responses"]) == {"200"}
    other = path("jobs/<uuid:job_id>/", OtherJobs.as_view())
    assert "404" in operation(other, method="get")["responses"]


# The whole


def test_the_mixins_docstring_is_no_description() -> None:
    class Described(viewsets.GenericViewSet):
        """What a project says of all its views."""

        serializer_class = Order

    class Undescribed(IdempotencyMixin, Described):
        create = OrderViewSet.create
        list = OrderViewSet.list
        update = OrderViewSet.update

    class Bare(IdempotencyMixin, viewsets.GenericViewSet):
        serializer_class = Order
        create = OrderViewSet.create
        list = OrderViewSet.list
        update = OrderViewSet.update

    for method in ("get", "post"):
        assert operation(orders(Undescribed), method=method)["description"] == Described.__doc__
        assert "description" not in operation(orders(Bare), method=method)


def test_names_of_its_enumerations_stay() -> None:
    class Parcel(serializers.Serializer):
        status = serializers.ChoiceField(choices=["here", "gone"])
        state = serializers.ChoiceField(choices=["whole", "broken"])

    schemas = schema_of(orders(serializer_class=Parcel), LOOKUPS)["components"]["schemas"]
    assert {"StatusEnum", "StateEnum"} <= set(schemas)
    assert {"IdempotencyJobStatus", "IdempotencyKeyState"} <= set(schemas)


def test_the_same_schema_each_time() -> None:
    urls = [orders(), orders(OrderViewSet), path("book/", booked), LOOKUPS]
    once = schema_of(*urls)
    assert [schema_of(*urls) for _ in range(3)] == [once] * 3


def test_a_class_of_ours_that_was_left_behind_is_told_once() -> None:
    """drf-spectacular changes the URLs' classes meanwhile, and threads may meet there."""
    urls = [orders(idempotency_policy=Policy(execution="job")), LOOKUPS]
    once = schema_of(*urls)
    callbacks = [urls[0].callback, *(each.callback for each in LOOKUPS.url_patterns)]
    before = [callback.cls for callback in callbacks]
    try:
        for callback in callbacks:
            callback.cls = ProtectedViews(callback).view_replacement()
            assert ProtectedViews(callback).view_replacement() is callback.cls
        assert schema_of(*urls) == once
    finally:
        for callback, kind in zip(callbacks, before, strict=True):
            callback.cls = kind


def test_without_drf_spectacular_nothing_of_it_is_imported() -> None:
    program = """
import sys
from django.conf import settings
settings.configure(INSTALLED_APPS=["idempotency"], SECRET_KEY="-")
import django
django.setup()
assert "idempotency.checks" in sys.modules
sys.exit("drf_spectacular" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_its_app_is_all_that_it_takes() -> None:
    program = """
import sys
from django.conf import settings
settings.configure(INSTALLED_APPS=["drf_spectacular", "idempotency"], SECRET_KEY="-")
import django
django.setup()
from drf_spectacular.extensions import OpenApiViewExtension
sys.exit("ProtectedViews" not in [each.__name__ for each in OpenApiViewExtension._registry])
"""
    subprocess.run([sys.executable, "-c", program], check=True)
