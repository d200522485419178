"""A chapter's notebook in JupyterLab: there the slider drives the library itself."""

import base64
import os
import re
import sys
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from book.sites import ROOT
from grading.test_clients import jupyter_lab

from course_lib.layout import topic_files, topics

sys.path.append(str(ROOT / "book" / "_ext"))
from reading_room import notebooks  # noqa: E402

pytestmark = pytest.mark.xdist_group("clients")
MINUTE = 60_000  # milliseconds


def chapter():
    """The first chapter with a slider as a notebook without outputs, up to that slider."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    for topic in topics(ROOT):
        path = topic_files(topic, ROOT).chapter
        book = notebooks.chapter_notebook(path, SimpleNamespace(**config), ROOT / "book" / "references.bib")
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        sliders = [place for place, cell in enumerate(code) if "widgets.explore(" in cell.source]
        if sliders:
            book.cells = code[: sliders[0] + 1]
            return book
    raise AssertionError("no chapter has a slider")


def shown(picture):
    """The bytes of the picture and its description."""
    kind, data = picture.get_attribute("src").split(",")
    assert kind == "data:image/png;base64"
    return base64.b64decode(data), picture.get_attribute("alt")


def test_the_slider_moves_by_key_and_the_library_draws_again(browser, tmp_path):
    folder = tmp_path / "reader"
    folder.mkdir()
    nbformat.write(chapter(), folder / "chapter.ipynb")
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(MINUTE)
    context.route(lambda url: not url.startswith("http://127.0.0.1:"), lambda route: route.abort())
    page = context.new_page()
    with jupyter_lab(folder, tmp_path / "settings") as address:
        page.goto(f"{address}/lab/tree/chapter.ipynb")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # asked before, it would ask which kernel
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        picture = page.locator(".jp-OutputArea .widget-html img")
        picture.wait_for()
        before = shown(picture)
        handle = page.locator(".widget-slider [role=slider]").first
        handle.focus()
        position = handle.get_attribute("aria-valuenow")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("alt => document.querySelector('.widget-html img').alt !== alt", arg=before[1])
        after = shown(picture)
        if photographs := os.environ.get("COURSE_SCREENSHOTS"):
            page.screenshot(path=f"{photographs}/chapter_in_lab.png")
        assert handle.get_attribute("aria-valuenow") != position
        assert after[0] != before[0] and re.search(r"\w{3,}", after[1])
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("alt => document.querySelector('.widget-html img').alt === alt", arg=before[1])
        assert shown(picture) == before
        assert not page.locator(".jp-OutputArea", has_text="Traceback").count()
        context.close()
