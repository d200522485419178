"""Sliders and quizzes of every page, worked by keyboard."""

import pytest
from book.sites import PAGES

FRAMES = """() => [...document.querySelectorAll('course-explore')].every(one =>
  window.courseFrames?.[one.dataset.frames.match(/(\\w+)\\.js$/)[1]])"""
CHAPTERS = [page for page in PAGES if not page.endswith("search.html")]


@pytest.mark.parametrize("page", CHAPTERS)
def test_every_slider_moves_picture_description_and_state(visit, page):
    seen = visit(page)
    seen.page.wait_for_function(FRAMES)
    for widget in seen.page.locator("course-explore").all():
        picture, live = widget.locator(".course-figure"), widget.locator(".course-live")
        for slider in widget.locator("input[type=range]").all():
            row = slider.locator("xpath=ancestor::*[contains(@class, 'course-slider')][1]")
            shown = []
            slider.focus()
            for key in ("Home", "End"):
                seen.page.keyboard.press(key)
                state = row.locator(".course-state").inner_text()
                shown.append((picture.inner_html(), picture.get_attribute("aria-label"), state))
                assert slider.get_attribute("aria-valuetext") == state
            low, high = shown
            assert all(a != b for a, b in zip(low, high, strict=True)), "picture, description and state change"
            seen.page.wait_for_function(
                "([live, alt]) => live.textContent === alt", arg=[live.element_handle(), high[1]], timeout=2000
            )
    assert not seen.problems


@pytest.mark.parametrize("page", CHAPTERS)
def test_every_quiz_is_answered_by_keyboard(visit, page):
    seen = visit(page)
    for question in seen.page.locator("course-quiz fieldset").all():
        options, verdict = question.locator("input[type=radio]").all(), question.locator(".course-verdict")
        assert len(options) >= 2
        question.locator("button").focus()
        seen.page.keyboard.press("Enter")
        assert "Choose" in verdict.inner_text()
        options[0].focus()
        seen.page.keyboard.press("Space")
        verdicts = []
        for i, option in enumerate(options):
            if i:
                option_before = options[i - 1]
                option_before.focus()
                seen.page.keyboard.press("ArrowDown")
            assert option.is_checked() and verdict.inner_text() == ""
            seen.page.keyboard.press("Tab")
            seen.page.keyboard.press("Enter")
            verdicts.append(verdict.inner_text())
        assert sum(text.startswith("Right.") for text in verdicts) == 1
        assert sum(text.startswith("Not quite.") for text in verdicts) == len(options) - 1
        assert len(set(verdicts)) == len(verdicts) and min(map(len, verdicts)) > 15, "each has its own reason"
    assert not seen.problems


def test_two_sliders_on_a_page_do_not_disturb_each_other(visit):
    page = visit("sampler:book/sampler.html").page
    page.wait_for_function(FRAMES)
    first, second = page.locator("course-explore .course-figure").all()
    before = first.inner_html(), second.inner_html()
    page.locator("course-explore input").last.focus()
    page.keyboard.press("End")
    assert first.inner_html() == before[0] and second.inner_html() != before[1]


def test_a_frame_is_drawn_in_a_few_milliseconds(visit):
    page = visit("sampler:book/sampler.html").page
    page.wait_for_function(FRAMES)
    milliseconds = page.evaluate(
        """() => { const input = document.querySelector('course-explore input'), start = performance.now();
           for (let i = 0; i < 100; i++) {
             input.value = i % 5; input.dispatchEvent(new Event('input', {bubbles: true})); }
           return (performance.now() - start) / 100; }"""
    )
    assert milliseconds < 16


def test_a_slider_that_is_moved_before_its_frames_come_shows_them_when_they_do(browser, served):
    context = browser.new_context()
    page, waiting = context.new_page(), []
    page.route("**/_frames/*.js", lambda route: waiting.append(route))
    page.goto(served("sampler").address + "book/sampler.html")
    widget = page.locator("course-explore").first
    picture, slider = widget.locator(".course-figure"), widget.locator("input").first
    before = picture.inner_html()
    slider.focus()
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == widget.locator(".course-state").first.inner_text()
    assert picture.inner_html() == before and picture.locator("svg").is_visible()
    page.wait_for_timeout(100)
    for route in waiting:
        route.continue_()
    page.wait_for_function("([box, before]) => box.innerHTML !== before", arg=[picture.element_handle(), before])
    assert picture.get_attribute("aria-label").strip()
    context.close()


def test_frames_that_do_not_come_are_asked_for_again_at_the_next_move(browser, served):
    context = browser.new_context()
    page = context.new_page()
    page.route("**/_frames/*.js", lambda route: route.abort())
    page.goto(served("sampler").address + "book/sampler.html")
    widget = page.locator("course-explore").first
    widget.get_by_text("The pictures did not come").wait_for()
    before = widget.locator(".course-figure").inner_html()
    page.unroute("**/_frames/*.js")
    widget.locator("input").first.focus()
    page.keyboard.press("End")
    box = widget.locator(".course-figure").element_handle()
    page.wait_for_function("([box, before]) => box.innerHTML !== before", arg=[box, before])
    assert widget.locator(".course-live").count() == 1
    context.close()
