"""Serve the built sites and open their pages in headless Chromium."""

import contextlib
import functools
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from book.sites import ROOT, built

sys.path.append(str(ROOT / "book" / "_ext"))
from reading_room import chromium  # noqa: E402


class Served(NamedTuple):
    """A built site on a local port."""

    folder: Path
    address: str


@pytest.fixture(scope="session")
def served():
    """Return a function from a site's name to the site, built and served."""
    with contextlib.ExitStack() as running:

        @functools.cache
        def serve(site: str) -> Served:
            folder = built(site)
            return Served(folder, running.enter_context(chromium.served(folder)))

        yield serve


class Visit:
    """A page that was opened, and what went wrong on the way."""

    def __init__(self, browser, site: Served, page: str, width: int = 1280, scheme: str = "light", **context):
        """Open the page in a context of its own."""
        size = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", **context)
        self.page, self.problems = self.context.new_page(), []
        self.page.on("request", lambda request: self._foreign(request.url, site.address))
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url}"))
        self.page.on("response", lambda answer: self._missing(answer))
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("console", lambda message: self._console(message))
        self.page.goto(site.address + page)
        self.page.wait_for_load_state("load")
        self.page.evaluate("document.fonts.ready.then(() => true)")

    def _foreign(self, url: str, home: str):
        if not url.startswith((home, "data:", "blob:")):
            self.problems.append(f"foreign: {url}")

    def _missing(self, answer):
        if answer.status >= 400:
            self.problems.append(f"{answer.status}: {answer.url}")

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text}")


@pytest.fixture
def visit(browser, served):
    """Return a function that opens ``site:page``; what it opened is closed after the test."""
    opened = []

    def open_page(name: str, **options) -> Visit:
        site, _, page = name.partition(":")
        opened.append(Visit(browser, served(site), page, **options))
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()
