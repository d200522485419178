"""Every page, as people meet it: desktop and phone, light and dark."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from book.sites import PAGES, SITES, built

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text(encoding="utf-8")

# Opening fades in, and what is half faded has too little contrast.
UNFOLD = """async () => {
  document.querySelectorAll('details').forEach(fold => { fold.open = true; });
  await new Promise(requestAnimationFrame);
  await Promise.all(document.getAnimations().map(animation => animation.finished.catch(() => {})));
}"""

DRAWN = "'courseDrawn' in document.documentElement.dataset"  # also what was out of sight

TOO_WIDE = """[...document.querySelectorAll('main *')].filter(element => {
  if (element.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let box = element; box; box = box.parentElement)
    if (getComputedStyle(box).overflowX !== 'visible' || getComputedStyle(box).position === 'fixed') return false;
  return true;
}).map(element => element.outerHTML.slice(0, 120)).slice(-3)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("widths", [(1280,), (320, 390)], ids=["desktop", "phone"])  # 320: reflow, WCAG 1.4.10
@pytest.mark.parametrize("page", PAGES)
def test_page(visit, page, widths, scheme):
    seen = visit(page, width=widths[-1], scheme=scheme)
    assert seen.page.evaluate("document.documentElement.dataset.theme") == scheme
    seen.page.wait_for_function(DRAWN)
    for width in widths:
        seen.page.set_viewport_size({"width": width, "height": 844})
        if seen.page.evaluate("document.documentElement.scrollWidth") > width:
            pytest.fail(f"scrolls sideways at {width} px because of {seen.page.evaluate(TOO_WIDE)}")
    seen.page.evaluate(UNFOLD)
    seen.page.evaluate(AXE)
    found = seen.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert not [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found]
    assert not seen.problems


@pytest.mark.parametrize("page", PAGES)
def test_pictures_are_described(visit, page):
    pictures = visit(page).page.evaluate(
        """[...document.querySelectorAll('article img')].map(img => img.alt).concat(
           [...document.querySelectorAll('article svg:not(.katex svg, button svg, .course-letters)')].map(svg =>
             svg.closest('[role=img]')?.getAttribute('aria-label') || svg.getAttribute('aria-label')))"""
    )
    assert all(alt and len(alt) > 9 and "../_images" not in alt and not alt.endswith(".png") for alt in pictures)


def test_what_is_out_of_sight_is_laid_out_once_the_page_has_loaded(visit):
    hidden = """[...document.querySelectorAll('article *')]
      .filter(box => getComputedStyle(box).contentVisibility != 'visible')"""
    seen = visit("book:book/norm_penalties.html")
    seen.page.wait_for_function(DRAWN)
    assert seen.page.evaluate(f"{hidden}.length") == 0
    seen.page.evaluate("delete document.documentElement.dataset.courseDrawn")
    assert seen.page.evaluate(f"{hidden}.length") > 3


@pytest.mark.parametrize("link", ["reference.html#course_lib.groups.cyclic", "norm_penalties.html#the-ledger"])
def test_a_link_into_a_page_still_points_there_when_all_is_laid_out(visit, link):
    seen = visit(f"book:book/{link}")
    seen.page.wait_for_function(DRAWN)
    seen.page.wait_for_timeout(300)
    top = seen.page.evaluate("document.querySelector(':target').getBoundingClientRect().top")
    assert -10 <= top < 150


class Anchors(HTMLParser):
    """Collect what a page links to and what it can be linked by."""

    def __init__(self):
        super().__init__()
        self.links, self.ids = [], set()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])


@pytest.mark.parametrize("site", SITES)
def test_no_link_leads_nowhere(site):
    folder = built(site)
    parsed = {}
    for path in folder.rglob("*.html"):
        parsed[path] = Anchors()
        parsed[path].feed(path.read_text(encoding="utf-8"))
    broken = []
    for path, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            start = (
                folder if parts.path.startswith("/") else path.parent
            )  # the page for wrong addresses starts at the root
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            if not target.exists():
                broken.append(f"{path.name}: {link}")
            elif parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].ids:
                broken.append(f"{path.name}: {link}")
    assert not broken


@pytest.mark.parametrize("site", SITES)
def test_ids_are_unique(site):
    for path in built(site).rglob("*.html"):
        page = re.sub(r"<script.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.S)
        ids = re.findall(r'<[^>]*? id="([^"]+)"', page)
        assert len(ids) == len(set(ids)), f"{path}: {sorted({i for i in ids if ids.count(i) > 1})}"


@pytest.mark.parametrize("page", ["sampler:book/plain.html", "sampler:search.html"])
def test_a_plain_page_loads_nothing_it_does_not_need(visit, page):
    text = visit(page).page.content()
    for extra in ("katex.min", "explore.js", "quiz.js", "fontawesome.js", "mathjax", "require.js"):
        assert extra not in text.lower(), extra


def test_icons_and_brackets_come_with_the_sheet_and_letters_of_formulas_are_cut_fonts(visit):
    loaded = []
    seen = visit("sampler:book/sampler.html")
    seen.page.on("request", lambda request: loaded.append(request.url))
    seen.page.reload()
    seen.page.evaluate("document.fonts.ready.then(() => true)")
    fonts = [url for url in loaded if ".woff" in url]
    assert fonts and all("/katex/fonts/KaTeX_" in url and url.endswith(".woff") for url in fonts)
    assert len(loaded) < 12, "a journey for every file"
    icon = "getComputedStyle(document.querySelector('.fa-bars'), '::before')"
    assert seen.page.evaluate(f"{icon}.content") == '"\uf0c9"'
    assert seen.page.evaluate("document.fonts.check('900 1em \"Font Awesome 6 Free\"', '\uf0c9')")


@pytest.mark.parametrize("page", ["book:book/teaching.html", "book:book/status.html"])
def test_no_line_moves_when_scripts_arrive(browser, served, page):
    site, _, path = page.partition(":")
    heights = []
    for blocked in ("**/bundle-*.js*", "**/nothing"):
        context = browser.new_context(viewport={"width": 390, "height": 844})
        context.route(blocked, lambda route: route.abort())
        opened = context.new_page()
        opened.goto(served(site).address + path)
        opened.evaluate("document.documentElement.dataset.courseDrawn = ''")  # what is out of sight has its height, too
        heights.append(opened.evaluate("document.querySelector('.bd-article').getBoundingClientRect().height"))
        context.close()
    assert heights[0] == heights[1] > 500


def test_the_menu_opens_and_closes_on_a_phone_by_tap_and_by_key(visit):
    page = visit("sampler:book/sampler.html", width=390, has_touch=True).page
    for button, content in (("primary", "Part I"), ("secondary", "The slider")):
        toggle = page.locator(f"button.{button}-toggle:visible")
        panel = page.locator(f"#pst-{button}-sidebar-modal")
        entry = panel.get_by_text(content).first
        toggle.tap()
        entry.wait_for(state="visible")
        page.keyboard.press("Escape")
        entry.wait_for(state="hidden")
        toggle.focus()
        page.keyboard.press("Enter")
        entry.wait_for(state="visible")
        page.mouse.click(385, 450) if button == "primary" else page.mouse.click(5, 450)
        entry.wait_for(state="hidden")


def test_colour_mode_can_be_chosen_and_is_remembered(visit):
    page = visit("sampler:book/sampler.html").page
    ink = "getComputedStyle(document.querySelector('.course-figure svg')).color"
    light = page.evaluate(ink)
    for _ in range(3):
        page.locator(".theme-switch-button:visible").click()
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
    assert page.evaluate(ink) != light
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_search_finds_words(visit):
    seen = visit("sampler:search.html?q=shrinkage")
    seen.page.wait_for_selector("#search-results li a")
    assert "sampler.html" in seen.page.locator("#search-results li a").first.get_attribute("href")
    assert not seen.problems


def test_it_works_from_a_folder_without_a_server(browser):
    context = browser.new_context()
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto((built("sampler") / "book" / "sampler.html").as_uri())
    slider = page.locator("course-explore input").first
    picture = page.locator("course-explore .course-figure").first
    before = picture.inner_html()
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_function("([box, before]) => box.innerHTML !== before", arg=[picture.element_handle(), before])
    assert page.locator(".katex").count() > 5 and not errors
    context.close()


def test_a_page_without_scripts_still_shows_everything(visit):
    page = visit("sampler:book/sampler.html", java_script_enabled=False).page
    assert page.locator("course-explore svg").first.is_visible()
    assert page.locator(".katex-html").first.is_visible()
    assert page.locator("course-quiz noscript details").count() or page.locator("course-quiz details").count()
