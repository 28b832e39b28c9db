"""`idempotent_view` on plain Django views: functions, classes, forms, templates."""

import json
from typing import Any

import pytest
from django import forms
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import Client, RequestFactory
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_POST

from idempotency import protocol
from idempotency.decorators import idempotent_view
from idempotency.exceptions import Unavailable
from idempotency.models import IdempotencyRecord
from idempotency.policy import Policy
from tests.app.models import Booking
from tests.factories import UserFactory
from tests.http.asking import (
    Caller,
    assert_refused,
    assert_same_reply,
    assert_untouched,
    replayed,
)


class BookingForm(forms.Form):
    name = forms.CharField()
    file = forms.FileField(required=False)


@idempotent_view(operation="bookings.book")
def book(request):
    """Answers by form: GET shows nothing, POST books."""
    if request.method == "GET":
        return HttpResponse("form")
    form = BookingForm(request.POST, request.FILES)
    if not form.is_valid():
        return JsonResponse(form.errors, status=400)
    Booking.objects.create(name=form.cleaned_data["name"])
    upload = form.cleaned_data["file"]
    return JsonResponse({"read": upload.read().decode() if upload else None}, status=201)


@idempotent_view(operation="bookings.json", policy=Policy(required=True))
def book_json(request):
    """Reads JSON itself, as plain views do."""
    booking = Booking.objects.create(name=json.loads(request.body)["name"])
    return JsonResponse({"id": booking.pk}, status=201, headers={"ETag": '"1"'})


@idempotent_view(operation="bookings.stream")
def read_stream(request):
    """Takes any bytes, from the stream."""
    return HttpResponse(request.read(), content_type="application/octet-stream")


@login_required
@idempotent_view(operation="bookings.members")
def members(request):
    return JsonResponse({"id": Booking.objects.create(name="one").pk}, status=201)


@idempotent_view(operation="bookings.tenant", caller=lambda request: request.META["HTTP_X_TENANT"])
def by_tenant(request):
    return JsonResponse({"id": Booking.objects.create(name="one").pk}, status=201)


@idempotent_view(operation="bookings.faulty", policy=Policy(remember_errors={402}))
def faulty(request):
    Booking.objects.create(name="one")
    match request.GET.get("error"):
        case "404":
            raise Http404
        case "403":
            raise PermissionDenied
        case "500":
            raise RuntimeError("asked for")
        case "503":
            return HttpResponse(status=503)
        case "stream":
            return StreamingHttpResponse([b"a"])
    return HttpResponse(status=201)


#: Bookings that the template saw when it was rendered, and whether the claim was still open.
rendered: list[tuple[int, int]] = []


class Counted:
    def __str__(self) -> str:
        running = IdempotencyRecord.objects.filter(state="running").count()
        rendered.append((Booking.objects.count(), running))
        return "counted"


@idempotent_view(operation="bookings.template")
def template(request):
    Booking.objects.create(name="one")
    return TemplateResponse(
        request, engines["django"].from_string("<p>{{ counted }}</p>"), {"counted": Counted()}
    )


@method_decorator(idempotent_view(operation="bookings.class"), name="dispatch")
class ByClass(View):
    def get(self, request):
        return HttpResponse("form")

    def post(self, request, **kwargs):
        return JsonResponse({"id": Booking.objects.create(name="one").pk}, status=201)

    delete = post


@csrf_protect
@require_POST
@idempotent_view(operation="bookings.protected")
def csrf_protected(request):
    return JsonResponse({"id": Booking.objects.create(name="one").pk}, status=201)


urlpatterns = [
    path("book/", book),
    path("json/", book_json),
    path("stream/", read_stream),
    path("members/", members),
    path("by-tenant/", by_tenant),
    path("faulty/", faulty),
    path("template/", template),
    path("class/", ByClass.as_view()),
    path("class/<int:pk>/", ByClass.as_view()),
    path("csrf/", csrf_protected),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


# Replays


@pytest.mark.django_db(transaction=True)
def test_a_function_view_is_protected(redis_db, api, happened):
    """From the cache, then from the ledger; its own headers with it."""
    first = api.ask("/json/", {"name": "one"})
    again = api.ask("/json/", {"name": "one"})
    redis_db.flushdb()
    later = api.ask("/json/", {"name": "one"})
    assert_same_reply(first, again)
    assert_same_reply(first, later)
    assert again["ETag"] == first["ETag"]
    assert happened.named("replayed") == ["cache", "ledger"]
    assert Booking.objects.count() == 1


@pytest.mark.parametrize("method", ["post", "delete"])
def test_a_class_is_protected_by_its_dispatch(redis_db, api, method):
    assert_same_reply(api.ask("/class/", method=method), api.ask("/class/", method=method))


@pytest.mark.parametrize("url", ["/book/", "/class/"])
def test_safe_methods_are_left_alone(redis_db, api, url):
    assert [replayed(api.ask(url, method="get")) for _ in range(2)] == [False, False]
    assert_untouched(redis_db)


@pytest.mark.parametrize(
    ("url", "key", "body", "status", "code"),
    [
        ("/json/", None, {}, 400, "idempotency_key_required"),
        ("/json/", "a b", {}, 400, "idempotency_key_invalid"),
        ("/json/", "k-1", {"name": "two"}, 409, "idempotency_key_reused"),
        ("/json/?page=2", "k-1", {"name": "one"}, 409, "idempotency_key_reused"),
    ],
)
def test_a_refusal_is_a_problem_document(redis_db, api, url, key, body, status, code):
    api.ask("/json/", {"name": "one"})
    refused = api.ask(url, body, key=key)
    assert_refused(refused, status, code)
    if body == {"name": "two"}:
        assert refused.json()["mismatched_fields"] == ["name"]


# Bodies


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"name": "one", "note": "a"}, True),
        ({"note": "a", "name": "one"}, True),
        ({"name": "one", "note": "b"}, False),
        ({"name": "one", "note": ["a", "a"]}, False),
        ({"name": "one"}, False),
    ],
)
@pytest.mark.parametrize("encoding", ["multipart", "urlencoded"])
def test_a_form_counts_by_its_fields(redis_db, api, encoding, other, same):
    """In any order, as multipart (each has another boundary) or encoded."""

    def ask(fields):
        if encoding == "multipart":
            return api.ask("/book/", fields, format="multipart")
        pairs = [
            f"{name}={value}"
            for name, values in fields.items()
            for value in (values if isinstance(values, list) else [values])
        ]
        return api.ask("/book/", "&".join(pairs), content_type="application/x-www-form-urlencoded")

    assert ask({"name": "one", "note": "a"}).status_code == 201
    assert replayed(ask(other)) is same


def test_a_form_counts_by_its_files_and_leaves_them_readable(redis_db):
    client = Client()

    def upload(content: bytes, name: str = "list.txt"):
        return client.post(
            "/book/",
            {"name": "one", "file": SimpleUploadedFile(name, content)},
            headers={"Idempotency-Key": "k-1"},
        )

    first = upload(b"content")
    assert first.json() == {"read": "content"}
    assert_same_reply(first, upload(b"content"))
    assert upload(b"Content").status_code == 409
    assert upload(b"content", "other.txt").status_code == 409


def test_json_counts_by_value_and_malformed_json_by_its_bytes(redis_db, api):
    """A plain view decides itself what it does with what is no JSON."""
    json_type = {"content_type": "application/json"}
    api.ask("/json/", b'{"name": "one", "n": 1}', **json_type)
    assert replayed(api.ask("/json/", b'{"n":1,"name":"one"}', **json_type))
    assert api.ask("/json/", b'{"n":"1","name":"one"}', **json_type).status_code == 409
    assert api.ask("/json/", b'{"name', key="k-2", **json_type).status_code == 500
    assert api.ask("/json/", b'{"name":"x"}', key="k-2", **json_type).status_code == 201


def test_json_nested_too_deeply_to_be_compared_counts_by_its_bytes(redis_db, api):
    """Wherever the stack's end is: a plain view may never have looked into it."""
    for depth in range(850, 1000):
        body = b'{"a":' + b"[" * depth + b"1" + b"]" * depth + b"}"
        asked = [
            api.ask("/stream/", body, key=f"k-{depth}", content_type="application/json")
            for _ in range(2)
        ]
        assert [answer.content for answer in asked] == [body, body], depth
        assert replayed(asked[1])


def test_any_other_bytes_count_as_they_are_and_stay_readable(redis_db, api):
    binary = {"content_type": "application/octet-stream"}
    assert api.ask("/stream/", b"\x00\xff", **binary).content == b"\x00\xff"
    assert replayed(api.ask("/stream/", b"\x00\xff", **binary))
    assert api.ask("/stream/", b"\x00\xfe", **binary).status_code == 409


# Callers


def test_the_users_session_names_the_caller(redis_db):
    """Two users with one key; a stranger is sent to the login, whatever is stored."""
    answers = []
    for user in (UserFactory.create(), UserFactory.create()):
        caller = Caller()
        caller.force_login(user)
        answers.append([caller.ask("/members/") for _ in range(2)])
    assert [[replayed(answer) for answer in pair] for pair in answers] == [[False, True]] * 2
    assert answers[0][0].json() != answers[1][0].json()
    assert Caller().ask("/members/").status_code == 302
    caller.logout()
    assert caller.ask("/members/").status_code == 302


def test_the_caller_hook_names_the_caller(redis_db, api):
    a, b = {"X-Tenant": "a"}, {"X-Tenant": "b"}
    first = api.ask("/by-tenant/", headers=a)
    assert not replayed(api.ask("/by-tenant/", headers=b))
    assert_same_reply(first, api.ask("/by-tenant/", headers=a))


def test_anonymous_callers_are_anon(redis_db, api):
    api.ask("/json/", {"name": "one"})
    assert IdempotencyRecord.objects.get().scope == "anon/bookings.json"


def test_a_view_without_authentication_middleware_has_anonymous_callers(redis_db):
    """`request.user` need not be there."""
    request = RequestFactory().post("/", headers={"Idempotency-Key": "k-1"})
    assert by_nobody(request).status_code == 201
    assert IdempotencyRecord.objects.get().scope == "anon/bookings.nobody"


@idempotent_view(operation="bookings.nobody")
def by_nobody(request):
    return HttpResponse(status=201)


# Errors


@pytest.mark.parametrize(("error", "status"), [("404", 404), ("403", 403), ("500", 500)])
@pytest.mark.parametrize("key", ["k-1", None], ids=["key", "no key"])
def test_a_raised_error_is_djangos_and_forgotten(redis_db, api, error, status, key):
    assert api.ask(f"/faulty/?error={error}", key=key).status_code == status
    assert not Booking.objects.exists()
    assert_untouched(redis_db)


@pytest.mark.parametrize(("error", "status"), [("503", 503), ("stream", 500)])
def test_a_failed_or_streaming_reply_is_forgotten(redis_db, api, error, status):
    assert api.ask(f"/faulty/?error={error}").status_code == status
    assert not Booking.objects.exists()
    assert_untouched(redis_db)


def test_a_returned_400_is_kept(redis_db, api):
    """Form errors that a view returns have committed: another form needs another key."""
    first = api.ask("/book/", {}, format="multipart")
    assert first.status_code == 400
    assert_same_reply(first, api.ask("/book/", {}, format="multipart"))
    assert api.ask("/book/", {"name": "one"}, format="multipart").status_code == 409


# Templates


def test_a_template_is_rendered_inside_the_transaction_and_once(redis_db, api):
    rendered.clear()
    first = api.ask("/template/")
    assert first.content == b"<p>counted</p>"
    assert rendered == [(1, 1)]
    assert_same_reply(first, api.ask("/template/"))
    assert rendered == [(1, 1)]


# CSRF


def test_csrf_is_checked_before_a_replay(redis_db):
    """A stored reply is not given to a forged request."""
    client = Caller(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = token = "x" * 32
    good = {"X-CSRFToken": token}
    assert client.ask("/csrf/", headers=good).status_code == 201
    forged = client.ask("/csrf/")
    assert (forged.status_code, replayed(forged)) == (403, False)
    assert replayed(client.ask("/csrf/", headers=good))


def test_marks_of_other_decorators_are_kept():
    """csrf_exempt below or above is seen by Django's middleware."""
    view: Any = idempotent_view(operation="x")(csrf_exempt(lambda request: HttpResponse()))
    assert view.csrf_exempt
    assert book.__name__ == "book"
    assert book.__doc__


# Wrong declarations


async def asynchronous(request):
    return HttpResponse()


class AsyncView(View):
    async def post(self, request):
        return HttpResponse()


@pytest.mark.parametrize("view", [asynchronous, AsyncView.as_view()], ids=["function", "class"])
def test_an_async_view_is_refused_at_once(view):
    with pytest.raises(TypeError, match="async"):
        idempotent_view(operation="x")(view)


@pytest.mark.parametrize("operation", ["", "a/b", "a b", "ü", "x" * 129])
def test_a_bad_operation_is_refused_at_once(operation):
    with pytest.raises(ValueError, match="operation"):
        idempotent_view(operation=operation)


@pytest.mark.parametrize("policy", [{"required": True}, Policy])
def test_what_is_no_policy_is_refused_at_once(policy):
    with pytest.raises((TypeError, ImproperlyConfigured)):
        idempotent_view(operation="x", policy=policy)


def test_a_refusal_of_an_unreachable_ledger_says_when_to_come_back(redis_db, api, monkeypatch):
    """Retry-After, as DRF sends it."""

    def refuse(*args):
        raise Unavailable(retry_after=0.2)

    monkeypatch.setattr(protocol, "run", refuse)
    refused = api.ask("/json/", {"name": "one"})
    assert_refused(refused, 503, "idempotency_unavailable", retry_after=True)
