"""Protected operations in OpenAPI schemas: what a policy adds, and that it is what clients get."""

import re
from typing import Any
from urllib.parse import quote

import pytest
from django.urls import include, path
from drf_spectacular.settings import patched_settings
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from rest_framework.renderers import BaseRenderer, BrowsableAPIRenderer, JSONRenderer

from idempotency.contrib.spectacular import headers
from idempotency.exceptions import IdempotencyError
from idempotency.identity import read_key
from idempotency.policy import Policy
from tests.contrib.described import OrderViewSet, codes, operation, orders, parameter, schema_of
from tests.factories import JobFactory, RecordFactory, UserFactory
from tests.http.asking import PROBLEM, Caller, replayed

USUAL = {
    ("400", "key_invalid"),
    ("409", "key_reused"),
    ("409", "in_progress"),
    ("409", "key_expired"),
    ("409", "reply_not_kept"),
    ("503", "unavailable"),
}
LOOKUPS = path("idempotency/", include("idempotency.urls"))

urlpatterns = [orders(), LOOKUPS]


def authenticated(user: Any) -> Caller:
    caller = Caller()
    caller.force_authenticate(user)
    return caller


def with_policy(**fields: Any) -> Any:
    return orders(idempotency_policy=Policy(**fields))


# The key


def test_the_key_may_be_sent() -> None:
    key = parameter(operation())
    assert "required" not in key
    assert re.search(key["schema"]["pattern"], key["example"])
    assert parameter(operation(), "Idempotency-Scope") is not None


@pytest.mark.parametrize("required", [True, False])
def test_the_key_is_required_where_the_policy_says_so(settings: Any, required: bool) -> None:
    settings.IDEMPOTENCY_REQUIRED = not required
    assert bool(parameter(operation(with_policy(required=required))).get("required")) is required
    assert bool(parameter(operation()).get("required")) is not required


def test_the_headers_have_the_names_of_the_settings(settings: Any) -> None:
    settings.IDEMPOTENCY_HEADER = "X-Idempotency-Key"
    settings.IDEMPOTENCY_REPLAYED_HEADER = "X-Replayed"
    described = operation()
    assert parameter(described) is None
    assert parameter(described, "X-Idempotency-Key") is not None
    assert set(described["responses"]["201"]["headers"]) == {"X-Replayed"}


def test_a_uuid_is_a_uuid() -> None:
    key = parameter(operation(with_policy(key_format="uuid")))
    assert key["schema"] == {"type": "string", "format": "uuid"}


@pytest.mark.parametrize(
    "key_format",
    [r"(?P<year>\d{4})-(?P=year)", r"(?i:order)-\d+", r"\Aorder\Z", r"(?>a+)b", r"\d++"],
)
def test_what_javascript_cannot_read_is_said_in_words(key_format: str) -> None:
    key = parameter(operation(with_policy(key_format=key_format)))
    assert key["schema"] == {"type": "string"}
    assert key_format in key["description"]
    assert "example" not in key


FORMATS = ["any", "uuid", "ulid", r"order-\d+(?:, urgent)?", r"(?:a|b)(?=c)c|(?<!x)d"]


def taken(header: str, key_format: str) -> bool:
    """Whether a request with this header has a key."""
    try:
        read_key(header, Policy(key_format=key_format).resolve())
    except IdempotencyError:
        return False
    return True


def pattern_of(key_format: str) -> str:
    schema = headers.key(Policy(key_format=key_format).resolve())["schema"]
    return schema.get("pattern") or r"^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$"


@pytest.mark.parametrize("syntax", ["lenient", "strict"])
@pytest.mark.parametrize("key_format", FORMATS)
def test_examples_are_taken(settings: Any, syntax: str, key_format: str) -> None:
    settings.IDEMPOTENCY_KEY_SYNTAX = syntax
    key = parameter(operation(with_policy(key_format=key_format)))
    if "example" in key:
        assert taken(key["example"], key_format)
        assert re.search(pattern_of(key_format), key["example"])
    assert ("example" in key) is (key_format in {"any", "uuid", "ulid"})


@pytest.mark.parametrize("syntax", ["lenient", "strict"])
@pytest.mark.parametrize("key_format", FORMATS)
def test_what_the_schema_allows_is_taken(settings: Any, syntax: str, key_format: str) -> None:
    settings.IDEMPOTENCY_KEY_SYNTAX = syntax
    pattern = re.compile(pattern_of(key_format), re.ASCII)

    @given(st.from_regex(pattern, fullmatch=True))
    def check(header: str) -> None:
        assume(not header.endswith("\n"))  # Python's $
        # One quote, or a comma outside of quotes: a regular expression of the project's own.
        assume(key_format in {"any", "uuid", "ulid"} or _spelt(header))
        assert taken(header, key_format)

    check()


def _spelt(header: str) -> bool:
    quotes = header[0] == '"', header[-1] == '"'
    return all(quotes) or not (any(quotes) or "," in header)


@pytest.mark.parametrize("syntax", ["lenient", "strict"])
def test_what_is_taken_the_schema_allows(settings: Any, syntax: str) -> None:
    settings.IDEMPOTENCY_KEY_SYNTAX = syntax
    pattern = pattern_of("any")
    characters = st.characters(min_codepoint=32, max_codepoint=126)
    text = st.text(characters)

    @given(text | text.map('"{}"'.format))
    def check(header: str) -> None:
        assume(";" not in header and header == header.strip())  # parameters are not described
        assert taken(header, "any") is bool(re.search(pattern, header))

    check()


# Refusals


@pytest.mark.parametrize(
    ("policy", "added", "missing"),
    [
        pytest.param({}, set(), set(), id="the default"),
        pytest.param({"required": True}, {("400", "key_required")}, set(), id="required"),
        pytest.param({"mismatch": "lenient", "in_flight": "reject"}, set(), set(), id="lenient"),
        pytest.param({"tombstone": 0}, set(), {("409", "key_expired")}, id="no tombstone"),
        pytest.param({"execution": "leased"}, set(), set(), id="leased"),
        pytest.param(
            {"execution": "leased", "on_abandoned": "hold"},
            {("409", "outcome_unknown")},
            set(),
            id="held",
        ),
        pytest.param(
            {"execution": "job", "on_abandoned": "hold"},
            {("409", "outcome_unknown")},
            set(),
            id="a held job",
        ),
        pytest.param(
            {"mode": "observe", "required": True},
            set(),
            USUAL - {("503", "unavailable")},
            id="observed",
        ),
    ],
)
def test_only_what_the_policy_can_give(policy: Any, added: Any, missing: Any) -> None:
    assert codes(operation(with_policy(**policy))) == (USUAL | added) - missing


def test_observing_asks_for_nothing() -> None:
    described = operation(with_policy(mode="observe", required=True))
    assert "required" not in parameter(described)
    assert "headers" not in described["responses"]["201"]


def test_a_mismatch_has_the_status_of_the_setting(settings: Any) -> None:
    settings.IDEMPOTENCY_MISMATCH_STATUS = 422
    assert codes(operation()) == (USUAL - {("409", "key_reused")}) | {("422", "key_reused")}


def test_retry_after_stands_where_a_retry_is_worth_it(settings: Any) -> None:
    settings.IDEMPOTENCY_MISMATCH_STATUS = 422
    responses = operation()["responses"]
    assert {s for s, each in responses.items() if "Retry-After" in each.get("headers", {})} == {
        "409",
        "503",
    }


class Csv(BaseRenderer):
    media_type = "text/csv"
    format = "csv"


def test_problems_are_labelled_as_the_mixin_labels_them() -> None:
    renderers = [JSONRenderer, BrowsableAPIRenderer, Csv]
    described = operation(orders(renderer_classes=renderers))
    assert set(described["responses"]["409"]["content"]) == {PROBLEM, "text/csv"}


# Replies


def test_what_is_kept_may_be_replayed() -> None:
    class Remembers(OrderViewSet):
        idempotency_policy = Policy(remember_errors={409})

    responses = operation(orders(Remembers))["responses"]
    kept = {s for s, each in responses.items() if "Idempotent-Replayed" in each.get("headers", {})}
    assert kept == {"201", "409"}


def test_a_job_is_its_document() -> None:
    responses = operation(with_policy(execution="job"))["responses"]
    documents = {
        status: each["content"]["application/json"]["schema"]
        for status, each in responses.items()
        if status.startswith("2")
    }
    document = {"$ref": "#/components/schemas/IdempotencyJob"}
    assert documents == {"200": document, "202": document}
    assert set(responses["202"]["headers"]) == {"Retry-After"}
    assert set(responses["200"]["headers"]) == {"Idempotent-Replayed"}


@pytest.mark.urls(__name__)
def test_where_jobs_can_be_looked_up_the_202_says_where() -> None:
    responses = operation(with_policy(execution="job"))["responses"]
    assert set(responses["202"]["headers"]) == {"Retry-After", "Location"}


# The look-ups


def test_the_lookups_are_described() -> None:
    paths = schema_of(LOOKUPS)["paths"]
    job, key = paths["/idempotency/jobs/{job_id}/"]["get"], paths["/idempotency/keys/{key}/"]["get"]
    assert codes(job) == {("503", "unavailable")}
    assert codes(key) == (USUAL - {("409", "key_reused")}) | {("409", "outcome_unknown")}
    assert {each["name"]: bool(each.get("required")) for each in key["parameters"]} == {
        "Idempotency-Scope": False,
        "key": True,
        "operation": True,
        "reply": False,
    }
    assert set(job["responses"]) == {"200", "404", "503"}
    assert set(key["responses"]) == {"200", "202", "400", "404", "409", "503", "default"}


# What clients get


def assert_described(response: Any, *patterns: Any, at: str, method: str = "post") -> None:
    """A response is one of those that the schema has for the operation."""
    with patched_settings({"OAS_VERSION": "3.1.0"}):  # its dialect is JSON Schema's
        schema = schema_of(*patterns)
    described = schema["paths"][at][method]["responses"][str(response.status_code)]
    media_type = response["Content-Type"].partition(";")[0]
    wanted = described["content"][media_type]["schema"] | {"components": schema["components"]}
    Draft202012Validator(wanted).validate(response.json())
    for name in described.get("headers", {}):
        assert name in {"Idempotent-Replayed", "Retry-After", "Location"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.urls(__name__)
def test_refusals_are_what_clients_get(settings: Any, redis_db: Any) -> None:
    settings.IDEMPOTENCY_REQUIRED = True
    caller = authenticated(UserFactory.create())
    first, again = (caller.ask("/orders/", {"amount": 1}) for _ in range(2))
    assert (first.status_code, replayed(again)) == (201, True)
    refused = [
        caller.ask("/orders/", {"amount": 1}, key=None),
        caller.ask("/orders/", {"amount": 1}, key="a,b"),
        caller.ask("/orders/", {"amount": 2}),
    ]
    described = operation()
    for response, code in zip(refused, ("key_required", "key_invalid", "key_reused"), strict=True):
        assert_described(response, orders(), at="/orders/")
        examples = described["responses"][str(response.status_code)]["content"][PROBLEM]["examples"]
        example = examples[f"idempotency_{code}"]["value"]
        got = response.json()
        assert got.keys() == example.keys()
        assert {**got, "detail": ""} == {**example, "detail": ""}
        assert code == "key_invalid" or got["detail"] == example["detail"]


@pytest.mark.django_db
@pytest.mark.urls(__name__)
@pytest.mark.parametrize("trait", ["queued", "running", "succeeded", "failed", "cancelled"])
def test_jobs_are_what_clients_get(trait: str) -> None:
    user = UserFactory.create()
    traits = {} if trait == "queued" else {trait: True}
    job = JobFactory.create(record__scope=f"user:{user.pk}/imports", **traits)
    response = authenticated(user).get(f"/idempotency/jobs/{job.pk}/")
    assert response.json()["status"] == trait
    assert_described(response, LOOKUPS, at="/idempotency/jobs/{job_id}/", method="get")
    component = schema_of(LOOKUPS)["components"]["schemas"]["IdempotencyJob"]
    assert set(response.json()) == set(component["properties"]) == set(component["required"])


@pytest.mark.django_db
@pytest.mark.urls(__name__)
@pytest.mark.parametrize("trait", ["leased", "tombstone", "abandoned", "unknown", "not_kept"])
def test_outcomes_are_what_clients_get(trait: str) -> None:
    user = UserFactory.create()
    record = RecordFactory.create(scope=f"user:{user.pk}/orders", **{trait: True})
    at = f"/idempotency/keys/{quote(record.key)}/"
    described = {"at": "/idempotency/keys/{key}/", "method": "get"}
    caller = authenticated(user)
    response = caller.get(at, {"operation": "orders"})
    assert_described(response, LOOKUPS, **described)
    component = schema_of(LOOKUPS)["components"]["schemas"]["IdempotencyKeyOutcome"]
    assert set(response.json()) == set(component["properties"]) == set(component["required"])
    for query in ({"operation": "orders", "reply": "1"}, {"operation": "no/name"}):
        refused = caller.get(at, query)
        assert refused.status_code >= 400
        assert_described(refused, LOOKUPS, **described)
