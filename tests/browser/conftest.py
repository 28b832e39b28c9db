"""The admin's pages in a real Chromium, under a strict Content-Security-Policy."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.conf import settings
from django.test import Client, override_settings
from playwright.sync_api import Browser, Page, Request, sync_playwright
from pytest_django.live_server_helper import LiveServer

from tests.factories import UserFactory
from tests.plugin import chromium

#: For machines without a screen, and without anything that asks the network by itself.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Its event loop runs in this thread, where Django would refuse to ask the database.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        running = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def origin(django_db_setup: None) -> Iterator[str]:
    middleware = ["tests.browser.strict.strict_policy", *settings.MIDDLEWARE]
    with override_settings(MIDDLEWARE=middleware, ALLOWED_HOSTS=["127.0.0.1"]):
        server = LiveServer("127.0.0.1")
        yield server.url
        server.stop()


#: Opens a page of the admin as a superuser: `visit("/admin/", viewport=PHONE)`.
Visiting = Callable[..., Page]


@pytest.fixture
def visit(
    browser: Browser, origin: str, transactional_db: None, client: Client
) -> Iterator[Visiting]:
    """Nothing may be refused, missing or broken on the pages that were opened."""
    client.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    wrong: list[str] = []
    contexts = []

    def failed(request: Request) -> None:
        wrong.append(f"{request.url} {request.failure}")

    def open_page(path: str, **options: Any) -> Page:
        context = browser.new_context(base_url=origin, **{"viewport": DESK, **options})
        contexts.append(context)
        context.add_cookies(
            [{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": origin}]
        )
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", failed)
        response = page.goto(path)
        assert response is not None
        assert response.headers["content-security-policy"]
        assert response.status == 200
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def barriers(page: Page) -> str:
    """What axe finds within the page's own part: a barrier a line."""
    # An evaluated script is not the page's, so its policy does not stop axe.
    return str(Axe().run(page, context="#content").generate_snapshot())


def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than its window."""
    root = "document.documentElement"
    return bool(page.evaluate(f"{root}.scrollWidth > {root}.clientWidth"))
