"""The dashboard as people meet it: on desk and phone, in light and dark, by keyboard and by ear."""

from datetime import timedelta
from itertools import pairwise

import pytest
from playwright.sync_api import Page, expect

from idempotency.models import HourlyCount
from tests.browser.conftest import DESK, PHONE, Visiting, barriers, scrolls_sideways
from tests.factories import HourlyCountFactory, JobFactory, RecordFactory

pytestmark = pytest.mark.browser

PAGE = "/admin/idempotency/idempotencyrecord/dashboard/"

#: A name without a place to break it, about as long as they get.
LONG = "enrollments.api.v2." + "VeryLongNameOfAViewSet" * 4

HAPPENED = {
    ("executed", ""): 900,
    ("replayed", "cache"): 700,
    ("replayed", "ledger"): 60,
    ("attached", ""): 40,
    ("waited", ""): 90,
    ("refused", "idempotency_in_progress"): 30,
    ("refused", "idempotency_key_reused"): 12,
    ("failed", "ValidationError"): 8,
    ("observed", "executed"): 500,
    ("observed", "replayed"): 25,
}


@pytest.fixture
def busy(transactional_db: None) -> None:
    """A day in which everything happened."""
    HourlyCount.objects.bulk_create(
        HourlyCountFactory.build(
            ago=timedelta(hours=hours),
            operation=operation,
            event=event,
            detail=detail,
            count=count * (1 + hours % 11),
            seconds=count * 0.02 * number,
        )
        for hours in range(24)
        for number, operation in enumerate(("shop.OrderViewSet.create", "pay.capture", LONG), 1)
        for (event, detail), count in HAPPENED.items()
    )
    for number in range(12):
        RecordFactory.create(scope=f"user:{number}/shop.OrderViewSet.create", replays=number)
    RecordFactory.create(scope=f"user:1/{LONG}", unknown=True)
    RecordFactory.create(lapsed=True)
    JobFactory.create()


def focused(page: Page) -> str:
    """The words of what has the focus."""
    return str(page.evaluate("document.activeElement.textContent.trim()"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
class TestLooks:
    """Each visit fails by itself where the page breaks its policy or tells the console anything."""

    def test_of_a_busy_day(self, visit: Visiting, busy: None, size, scheme) -> None:
        page = visit(PAGE, viewport=size, color_scheme=scheme)
        for summary in page.locator("summary").all():
            summary.click()
        assert barriers(page) == ""
        assert not scrolls_sideways(page)

    def test_of_an_empty_database(self, visit: Visiting, size, scheme) -> None:
        page = visit(PAGE, viewport=size, color_scheme=scheme)
        expect(page.get_by_role("heading", name="Nothing has been counted yet")).to_be_visible()
        assert barriers(page) == ""
        assert not scrolls_sideways(page)


def test_its_colors_follow_the_admins_theme(visit: Visiting, busy: None) -> None:
    """What the visitor has chosen in the admin outweighs what the machine prefers."""
    color = "getComputedStyle(document.querySelector('rect.idem-cache')).fill"
    page = visit(PAGE, color_scheme="dark")
    dark = page.evaluate(color)
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    light = page.evaluate(color)
    page.emulate_media(color_scheme="light")
    assert page.evaluate(color) == light != dark
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert page.evaluate(color) == dark


def test_a_screen_reader_finds_its_way(visit: Visiting, busy: None) -> None:
    main = visit(PAGE).get_by_role("main")
    expect(main.get_by_role("heading", level=1)).to_have_text("Idempotency dashboard")
    sections = main.get_by_role("heading", level=2).all_text_contents()
    assert sections == [
        "In short",
        "Duplicates caught",
        "Executed requests",
        "Refusals by reason",
        "Observe mode would have",
        "Now",
        "Storage",
        "Slowest operations",
        "Busiest scopes",
    ]
    for section in sections[1:]:
        expect(main.get_by_role("region", name=section, exact=True)).to_be_visible()
    for picture in sections[1:3]:
        expect(main.get_by_role("img", name=picture, exact=True)).to_have_accessible_description(
            "Stacked columns; the table below has the same numbers."
        )
    expect(main.get_by_role("navigation", name="Time range")).to_match_aria_snapshot(
        """
        - navigation "Time range":
          - list:
            - listitem:
              - link "24 hours"
            - listitem:
              - link "7 days"
            - listitem:
              - link "30 days"
        """
    )


def test_all_of_it_is_reached_by_keyboard(visit: Visiting, busy: None) -> None:
    page = visit(PAGE)
    page.locator("#content-start").focus()
    page.keyboard.press("Tab")
    assert focused(page) == "Records"
    page.keyboard.press("Tab")
    assert focused(page) == "24 hours"
    page.keyboard.press("Tab")
    assert focused(page) == "7 days"
    page.keyboard.press("Enter")
    page.wait_for_url("**?range=7d")
    chosen = page.get_by_role("navigation", name="Time range").locator("[aria-current=page]")
    expect(chosen).to_have_text("7 days")

    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    numbers = page.get_by_role("region", name="Duplicates caught as a table")
    expect(numbers.get_by_role("columnheader", name="answered by the ledger")).to_be_visible()
    outline = page.locator("summary").first.evaluate("each => getComputedStyle(each).outlineStyle")
    assert outline == "solid"


def test_what_waits_for_an_operator_leads_to_the_records(visit: Visiting, busy: None) -> None:
    page = visit(PAGE)
    page.locator(".idem-alarming").get_by_role("link").click()
    expect(page).to_have_url("/admin/idempotency/idempotencyrecord/?stage=unknown")
    page.get_by_role("link", name="Dashboard").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Idempotency dashboard")


def test_a_chart_stays_readable_on_a_phone(visit: Visiting, busy: None) -> None:
    """Its columns shrink with the window, its letters do not, and no word covers another."""
    page = visit(PAGE, viewport=PHONE)
    words = page.locator("svg.idem-picture").first.locator("text")
    boxes = [word.bounding_box() for word in words.all()]
    assert len(boxes) == 6
    assert all(box["height"] >= 10 for box in boxes)
    assert all(left["x"] + left["width"] < right["x"] for left, right in pairwise(boxes))
    assert boxes[-1]["x"] + boxes[-1]["width"] <= PHONE["width"]
