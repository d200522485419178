"""What stands beside the pages: wrong addresses, sitemap, cards for shared links, status, serving."""

import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import yaml
from book.sites import ROOT, built
from book.test_reading_room import build, page

sys.path.append(str(ROOT / "book" / "_ext"))
from reading_room import publishing  # noqa: E402

SERVE = ROOT / "book" / "_ext" / "reading_room" / "serve.py"
MODULES = ["myst_parser", "reading_room.notebooks", "reading_room.publishing"]
TEXT = "# The title\n\nA first paragraph that is long enough to say in a few words what the page is <about>.\n"


def project(tmp_path, **config):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "_toc.yml").write_text("root: index\nparts: []\n")
    pages = {"index": "# The course\n\n```{toctree}\none\n```\n", "one": TEXT}
    build(tmp_path, pages, MODULES, project="The course", **config)
    return tmp_path / "html"


def test_with_a_repository_everything_has_its_full_address(tmp_path):
    site = project(tmp_path, course_repository="Someone/course@main")
    base = "https://someone.github.io/course/"
    assert f"<loc>{base}one.html</loc>" in (site / "sitemap.xml").read_text()
    assert f"Sitemap: {base}sitemap.xml" in (site / "robots.txt").read_text()
    html = page(tmp_path, "one")
    assert f'<meta property="og:image" content="{base}_static/cards/one.png"' in html
    assert 'content="The title"' in html and "what the page is &lt;about&gt;." in html
    card = site / "_static" / "cards" / "one.png"
    assert card.read_bytes()[16:24] == (1200).to_bytes(4) + (630).to_bytes(4) and card.stat().st_size < 120_000
    assert 'href="/course/index.html"' in (site / "404.html").read_text()


def test_without_one_what_needs_an_address_is_left_out(tmp_path):
    site = project(tmp_path)
    assert not (site / "sitemap.xml").exists() and "og:image" not in page(tmp_path, "one")
    assert 'property="og:title" content="The title"' in page(tmp_path, "one")
    lost = (site / "404.html").read_text()
    assert 'href="/one.html">The title</a>' in lost and "src=" not in lost and "http" not in lost


def test_cards_are_drawn_alike_every_time(tmp_path):
    for name in ("a.png", "b.png"):
        publishing.draw_card("A title that is long enough for two lines", "The course", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_status_lists_every_executed_page_and_the_versions():
    html = (built("book") / "book" / "status.html").read_text(encoding="utf-8")
    executed = [path.stem for path in (ROOT / "book").glob("*.md") if "{code-cell}" in path.read_text("utf-8")]
    for name in executed:
        assert re.search(
            rf'<a href="{name}\.html">[^<]*</a></th><td>[\d.]+</td><td>\d{{2,}}</td><td>done</td>', html
        ), name
    assert all(f">{name}</th>" in html for name in ("Python", *publishing.VERSIONS))


def test_it_is_served_here_alone_and_a_wrong_address_is_answered_by_the_sites_own_page():
    command = [sys.executable, SERVE, "--site", built("book"), "--port", 0]
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())[0]
        with urllib.request.urlopen(f"{address}index.html") as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError) as wrong:
            urllib.request.urlopen(f"{address}book/nowhere.html")
        assert wrong.value.code == 404 and "No such page" in wrong.value.read().decode()
    finally:
        server.terminate()
        server.wait(timeout=10)


def test_a_book_that_is_not_built_cannot_be_served(tmp_path):
    command = [sys.executable, SERVE, "--site", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 1 and "make book" in done.stderr


def test_the_workflow_publishes_versions_the_pdf_and_the_notebooks():
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text()
    steps = yaml.safe_load(text)["jobs"]["publish"]["steps"]
    commands = "\n".join(step.get("run", "") for step in steps)
    assert "reading_room.paper" in commands and "notebooks" in commands and "versions" in commands
