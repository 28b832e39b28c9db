"""How the tests of this package ask, and what they expect of an answer."""

from typing import Any

from django.http import HttpResponse
from rest_framework import serializers
from rest_framework.test import APIClient

from idempotency.models import IdempotencyRecord
from tests.app.models import Booking
from tests.factories import TokenFactory

REPLAYED = "Idempotent-Replayed"
PROBLEM = "application/problem+json"


class BookingSerializer(serializers.ModelSerializer):
    class Meta:
        model = Booking
        fields = ("id", "name", "seats")


class Caller(APIClient):
    """Sends requests under a key; an error nobody handled is a 500, as on a real server."""

    def __init__(self, **defaults: Any) -> None:
        super().__init__(raise_request_exception=False, **defaults)

    def ask(
        self,
        path: str,
        data: Any = None,
        *,
        key: str | None = "k-1",
        method: str = "post",
        scope: str | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Any:
        """The response; `data` is sent as JSON unless `format` or `content_type` says otherwise."""
        sent = dict(headers or {})
        if key is not None:
            sent["Idempotency-Key"] = key
        if scope is not None:
            sent["Idempotency-Scope"] = scope
        if "content_type" not in options:
            options.setdefault("format", "json")
        return getattr(self, method)(path, data, headers=sent, **options)


def caller_of(user: Any) -> Caller:
    """A caller that authenticates with the user's token."""
    caller = Caller()
    caller.credentials(HTTP_AUTHORIZATION=f"Token {TokenFactory.create(user=user).key}")
    return caller


def replayed(response: HttpResponse) -> bool:
    """Whether the response says that it is a stored one."""
    if REPLAYED not in response:
        return False
    assert response[REPLAYED] == "true"
    return True


def assert_same_reply(first: HttpResponse, again: HttpResponse) -> None:
    """The second is the stored first: status, bytes and content type."""
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.get("Content-Type") == first.get("Content-Type")
    assert (replayed(first), replayed(again)) == (False, True)


def assert_refused(response: Any, status: int, code: str, *, retry_after: bool = False) -> None:
    """A problem document of this code; Retry-After exactly where a retry is worth it."""
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert response["Content-Type"] == PROBLEM
    assert body["status"] == status
    assert body["type"].endswith(code)
    assert body["title"]
    assert body["detail"]
    assert not replayed(response)
    assert ("Retry-After" in response) is retry_after
    if retry_after:
        assert int(response["Retry-After"]) >= 1


def assert_untouched(redis_db: Any) -> None:
    """No record, and no name in Redis but a wake-up that expires by itself."""
    assert not IdempotencyRecord.objects.exists()
    assert [name for name in redis_db.keys("*") if not name.endswith(b":wake")] == []
