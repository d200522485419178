"""Find a Chromium, for printing the book, for measuring its pages and for the tests that look at them."""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
).split()
NONE = (
    "no Chromium: install one (apt install chromium, or playwright install chromium) or name it in COURSE_CHROMIUM; "
    "playwright itself comes with the extra 'dev'"
)


class Missing(RuntimeError):
    """There is no Chromium on this machine, or no playwright to drive it."""


def path(playwright) -> str | None:
    """Return the Chromium to use: the one that is named, playwright's own, or the system's."""
    own = playwright.chromium.executable_path
    found = [os.environ.get("COURSE_CHROMIUM"), own if Path(own).exists() else None, *map(shutil.which, PROGRAMS)]
    return next(filter(None, found), None)


@contextmanager
def launched() -> Iterator:
    """Yield a headless Chromium, closed at the end.

    Raises:
        Missing: there is none.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as missing:
        raise Missing(NONE) from missing
    with sync_playwright() as playwright:
        program = path(playwright)
        if program is None:
            raise Missing(NONE)
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Say nothing."""


@contextmanager
def served(folder: Path, handler: type = _Quiet) -> Iterator[str]:
    """Serve a folder on this machine alone, and yield its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
