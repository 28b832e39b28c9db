"""The dashboard's page: who sees it, what it says, and what it asks the database. How it looks and
sounds is tested in tests/browser."""

import re
from datetime import timedelta

import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path, reverse

from idempotency.admin import IdempotencyRecordAdmin, JobAdmin
from idempotency.admin.dashboard import RANGES
from idempotency.layers import census
from idempotency.models import IdempotencyRecord, Job
from tests import urls
from tests.factories import HourlyCountFactory, JobFactory, RecordFactory, UserFactory
from tests.test_figures import QUERIES

PAGE = "admin:idempotency_dashboard"
LIST = "admin:idempotency_idempotencyrecord_changelist"
#: What any page of the admin asks: the session, the user, and its permissions, own and of groups.
ADMIN_QUERIES = 4

#: A site of the project's own, where only jobs are registered.
bare = AdminSite(name="bare")
bare.register(Job, JobAdmin)
#: Another one, with the records.
other = AdminSite(name="other")
other.register(IdempotencyRecord, IdempotencyRecordAdmin)
urlpatterns = [path("bare/", bare.urls), path("other/", other.urls), *urls.urlpatterns]
pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]


@pytest.fixture
def staff(client: Client) -> User:
    user = UserFactory.create(is_staff=True)
    client.force_login(user)
    return user


@pytest.fixture
def viewer(client: Client, staff: User) -> Client:
    staff.user_permissions.add(Permission.objects.get(codename="view_idempotencyrecord"))
    return client


def shown(client: Client, **query: str) -> str:
    response = client.get(reverse(PAGE), query)
    assert response.status_code == 200
    return response.content.decode()


def text_of(page: str) -> str:
    """Its words, as a reader comes by them."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


# Who sees it


def test_strangers_are_sent_to_log_in(client: Client) -> None:
    response = client.get(reverse(PAGE))
    assert response.status_code == 302
    assert reverse("admin:login") in response.headers["Location"]


def test_staff_without_the_permission_are_refused(client: Client, staff: User) -> None:
    staff.user_permissions.add(Permission.objects.get(codename="view_job"))
    assert client.get(reverse(PAGE)).status_code == 403


def test_who_may_view_records_sees_it(viewer: Client) -> None:
    assert "Idempotency dashboard" in shown(viewer)


def test_the_list_and_the_app_link_to_it(viewer: Client) -> None:
    link = f'href="{reverse(PAGE)}"'
    assert link in viewer.get(reverse(LIST)).content.decode()
    assert link in viewer.get(reverse("admin:app_list", args=["idempotency"])).content.decode()


def test_who_may_not_see_it_is_not_sent_there(client: Client, staff: User) -> None:
    staff.user_permissions.add(Permission.objects.get(codename="view_job"))
    page = client.get(reverse("admin:app_list", args=["idempotency"])).content.decode()
    assert "idempotency jobs" in page.lower()
    assert "Dashboard" not in page


def test_a_site_without_the_records_has_none(admin_client: Client) -> None:
    response = admin_client.get("/bare/idempotency/")
    assert response.status_code == 200
    assert "Dashboard" not in response.content.decode()


def test_each_site_keeps_to_itself(admin_client: Client) -> None:
    RecordFactory.create()
    for page in ("idempotency/", "idempotency/idempotencyrecord/"):
        assert (
            '"/other/idempotency/idempotencyrecord/dashboard/"'
            in admin_client.get(f"/other/{page}").content.decode()
        )
    page = admin_client.get("/other/idempotency/idempotencyrecord/dashboard/").content.decode()
    assert '"/other/idempotency/idempotencyrecord/?stage=' in page
    assert "/admin/" not in page.replace("/static/admin/", "")


# What it says


def test_an_empty_database_is_told_what_to_do(viewer: Client) -> None:
    page = text_of(shown(viewer))
    for word in ("Nothing has been counted yet", "IdempotencyMixin", "Idempotency-Key", "observe"):
        assert word in page
    assert "<svg role" not in shown(viewer)


def test_it_tells_what_was_caught_and_by_what(viewer: Client) -> None:
    HourlyCountFactory.create(count=1234, seconds=617.0)
    HourlyCountFactory.create(event="replayed", detail="cache", count=900)
    HourlyCountFactory.create(event="replayed", detail="ledger", count=100)
    HourlyCountFactory.create(event="waited", count=41)
    HourlyCountFactory.create(event="refused", detail="idempotency_key_reused", count=7)
    page = text_of(shown(viewer))
    assert "Duplicates caught 1,000 41 of them waited" in page
    assert "Replays without the database 90.0 %" in page
    assert "Executed 1,234" in page
    assert "the key stands for another request idempotency_key_reused 7" in page
    assert "shop.OrderViewSet.create 500 ms 1,234 1,000 7" in page
    assert "Observe mode" not in page


def test_observe_mode_is_told_where_it_is_on(viewer: Client) -> None:
    HourlyCountFactory.create(event="observed", detail="replayed", count=55)
    page = text_of(shown(viewer))
    assert "Observe mode would have answered with the stored reply replayed 55" in page
    assert "let through by observe mode" in page


def test_it_tells_how_things_stand_and_links_to_the_records(viewer: Client) -> None:
    RecordFactory.create(scope="user:1/shop & more", unknown=True)
    RecordFactory.create(lapsed=True)
    JobFactory.create()
    page = shown(viewer)
    assert "Outcome unknown 1 to be settled by an operator" in text_of(page)
    assert "In flight now 2 1 without a sign of life" in text_of(page)
    assert 'class="idem-alarming"' in page
    for stage in ("unknown", "lapsed", "job", "running", "abandoned"):
        link = f"{reverse(LIST)}?stage={stage}"
        assert link in page
        assert viewer.get(link).status_code == 200
    link = f"{reverse(LIST)}?q=user%3A1%2Fshop%20%26%20more"
    assert link in page
    assert len(viewer.get(link).context["cl"].result_list) == 1


def test_beyond_the_limit_it_says_at_least(viewer: Client, monkeypatch) -> None:
    monkeypatch.setattr(census, "LIMIT", 2)
    RecordFactory.create_batch(3, leased=True)
    assert "In flight now ≥ 2" in text_of(shown(viewer))


def test_nothing_to_settle_alarms_nobody(viewer: Client) -> None:
    RecordFactory.create()
    assert "idem-alarming" not in shown(viewer)
    assert "nothing to settle" in shown(viewer)


@pytest.mark.parametrize("chosen", RANGES, ids=lambda one: one.name)
def test_a_range_is_chosen_by_the_url(viewer: Client, chosen) -> None:
    for hours in (1, 3 * 24, 20 * 24):
        HourlyCountFactory.create(ago=timedelta(hours=hours))
    page = shown(viewer, range=chosen.name)
    executed = 1 + sum(hours < chosen.hours for hours in (3 * 24, 20 * 24))
    assert f"Executed {executed} " in text_of(page)
    assert re.findall(r'href="\?range=(\w+)" aria-current="page"', page) == [chosen.name]


@pytest.mark.parametrize("name", ["", "1y", "<script>"])
def test_a_range_that_is_none_is_the_first(viewer: Client, name: str) -> None:
    RecordFactory.create()
    page = shown(viewer, range=name)
    assert '"?range=24h" aria-current' in page
    assert "<script>" not in page.replace("<script src", "")


def test_a_chart_and_its_table_have_the_same_numbers(viewer: Client) -> None:
    HourlyCountFactory.create(event="replayed", detail="cache", count=60)
    HourlyCountFactory.create(event="replayed", detail="ledger", count=20)
    chart = shown(viewer).split('<figure class="idem-chart">')[1].split("</figure>")[0]
    drawn = re.findall(r'<rect class="idem-(cache|ledger)" x="[^"]+"[^>]* height="([^"]+)"', chart)
    assert drawn == [("cache", "120.0"), ("ledger", "40.0")]
    assert re.findall(r'<td class="idem-number">(\d+)</td>', chart)[-4:] == ["60", "20", "0", "0"]
    assert chart.count('<g class="idem-column">') == chart.count('<th scope="row">') == 24


@pytest.mark.parametrize("language", ["de", "ar", "fr"])
def test_other_languages_write_numbers_in_words_only(viewer: Client, settings, language) -> None:
    settings.LANGUAGE_CODE = language
    settings.USE_THOUSAND_SEPARATOR = True
    HourlyCountFactory.create(event="replayed", detail="cache", count=12345)
    page = shown(viewer)
    for name, value in re.findall(r' (x|y|x1|x2|y1|y2|width|height|dy)="([^"]*)"', page):
        assert re.fullmatch(r"-?\d+(\.\d+)?(%|rem)?", value), (name, value)


def test_what_stands_in_the_database_is_text(viewer: Client) -> None:
    evil = '<script>alert(1)</script>"onload="x'
    RecordFactory.create(scope=f"user:1/{evil}")
    HourlyCountFactory.create(operation=evil)
    HourlyCountFactory.create(event="refused", detail=evil)
    page = shown(viewer)
    assert "<script>alert" not in page
    assert '"onload=' not in page
    assert page.count("&lt;script&gt;alert(1)") >= 3


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(viewer: Client) -> None:
    RecordFactory.create()
    for page in (shown(viewer), shown(viewer, range="30d")):
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=)|javascript:", page)
        assert not re.search(r'(?:src|href)="(?:https?:)?//', page)


# What it asks


@pytest.mark.parametrize("chosen", RANGES, ids=lambda one: one.name)
def test_the_number_of_statements_is_fixed(viewer: Client, chosen) -> None:
    RecordFactory.create_batch(30)
    for number in range(20):
        HourlyCountFactory.create(operation=f"operation-{number}", ago=timedelta(hours=number))
    with CaptureQueriesContext(connection) as captured:
        shown(viewer, range=chosen.name)
    assert len(captured) == QUERIES + ADMIN_QUERIES


def test_it_is_only_looked_at(viewer: Client) -> None:
    assert viewer.post(reverse(PAGE)).status_code == 405
