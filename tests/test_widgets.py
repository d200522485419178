"""Sliders and quizzes in both their lives."""

import base64
import json
import re

import matplotlib
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

from course_lib import figures, widgets  # noqa: E402


def draw(power, scale=1.0):
    fig, ax = plt.subplots()
    x = [i / 20 for i in range(21)]
    ax.plot(x, [scale * value**power for value in x])
    ax.set(xlim=(0, 1), ylim=(0, 2), title=f"power {power}")
    return fig


ALT = "x to the power {power}, times {scale:g}"


@pytest.fixture
def book(monkeypatch):
    monkeypatch.setenv(figures.BOOK_BUILD, "1")


def explore(**changes):
    options = {"power": [1, 2, 3], "scale": [0.5, 2.0], "alt": ALT} | changes
    return widgets.explore(draw, **options)


def parts(picture):
    markup = picture.bundle["text/html"]
    return markup, json.loads(re.search(r'<script type="application/json">(.*)</script>', markup)[1])


# -- in the book


def test_every_combination_is_there_and_each_piece_once(book):
    markup, data = parts(explore())
    assert len(data["frames"]) == len(data["alts"]) == 6
    assert len(set(data["pieces"])) == len(data["pieces"])
    whole = ["".join(data["pieces"][i] for i in frame) for frame in data["frames"]]
    assert len(set(whole)) == 6 and all(w.startswith("<svg") and w.endswith("</svg>") for w in whole)
    assert sum(map(len, whole)) > 2 * sum(map(len, data["pieces"])), "nothing was shared"
    assert data["alts"][3] == "x to the power 2, times 2" and data["texts"] == [["1", "2", "3"], ["0.5", "2"]]


def test_the_first_frame_is_in_the_page_and_stands_where_it_was_told(book):
    markup, data = parts(explore(start={"power": 3}))
    shown = re.search(r'role="img" aria-label="([^"]*)">(<svg.*?</svg>)', markup)
    assert shown[1] == "x to the power 3, times 0.5"
    assert shown[2] == "".join(data["pieces"][i] for i in data["frames"][4])
    assert re.findall(r'value="(\d)" aria-valuetext="([^"]*)"', markup) == [("2", "3"), ("0", "0.5")]


def test_controls_are_native_labelled_and_announced(book):
    markup, _ = parts(explore(names={"power": "$p$"}, label="Powers of x"))
    assert markup.startswith('<course-explore role="group" aria-label="Powers of x">')
    assert markup.count('<input type="range"') == 2 and markup.count("<label>") == 2
    assert '<span class="course-math">$p$</span>' in markup and 'aria-live="polite"' in markup


def test_there_is_a_picture_for_paper(book):
    picture = explore(start={"power": 2})
    assert base64.b64decode(picture.bundle["image/png"]).startswith(b"\x89PNG")
    assert picture.metadata["image/png"]["alt"] == picture.bundle["text/plain"] == "x to the power 2, times 0.5"


def test_the_same_call_makes_the_same_bytes(book):
    assert explore().bundle == explore().bundle


def test_a_script_end_in_a_description_does_not_end_the_script(book):
    markup, data = parts(explore(alt="</script> {power} {scale}"))
    assert markup.count("</script>") == 1 and data["alts"][0].startswith("</script>")


def test_no_figure_is_left_open(book):
    before = plt.get_fignums()
    explore()
    assert plt.get_fignums() == before


def test_the_budget_is_kept_or_the_build_fails(book, monkeypatch):
    monkeypatch.setattr(widgets, "BUDGET", 20_000)
    with pytest.raises(ValueError, match=r"6 frames make \d+ kB, the budget is 20 kB; offer fewer values"):
        explore()


def test_frames_of_different_size_are_refused(book):
    def grows(power):
        return plt.figure(figsize=(3 + power, 3))

    with pytest.raises(ValueError, match="one size"):
        widgets.explore(grows, power=[1, 2], alt="{power}")


def test_the_description_has_to_change(book):
    with pytest.raises(ValueError, match="same description 'A curve to the 1'"):
        explore(alt="A curve to the {power}")


# -- in Jupyter


def live(**changes):
    import ipywidgets

    box = explore(**changes)
    assert isinstance(box, ipywidgets.VBox)
    sliders = [child for child in box.children if isinstance(child, ipywidgets.SelectionSlider)]
    return sliders, next(child for child in box.children if "<img" in str(getattr(child, "value", "")))


def test_outside_the_book_the_same_call_is_live():
    sliders, picture = live(start={"scale": 2.0}, names={"power": "p"})
    assert [slider.value for slider in sliders] == [1, 2.0]
    assert [slider.description for slider in sliders] == ["p", "scale"]
    assert 'alt="x to the power 1, times 2"' in picture.value


def test_moving_a_slider_draws_again():
    sliders, picture = live()
    before = picture.value
    sliders[0].value = 3
    assert picture.value != before and 'alt="x to the power 3, times 0.5"' in picture.value
    sliders[0].value = 1
    assert picture.value == before


def test_the_live_picture_is_computed_by_the_function_at_that_moment():
    calls = []

    def counted(power):
        calls.append(power)
        return draw(power)

    box = widgets.explore(counted, power=[1, 2, 3], alt="{power}")
    assert calls == [1], "nothing is drawn before it is asked for"
    box.children[0].value = 3
    assert calls == [1, 3]


def test_a_function_may_describe_and_the_current_figure_will_do():
    def draws(power):
        draw(power)

    box = widgets.explore(draws, power=[1, 2], alt=lambda power: f"power is {power}")
    assert 'alt="power is 1"' in box.children[1].value


# -- refused in both


@pytest.mark.parametrize("in_book", [False, True])
@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"power": [1]}, "at least two different values"),
        ({"power": [1, 1]}, "at least two different values"),
        ({"power": []}, "at least two different values"),
        ({"start": {"power": 7}}, "cannot start at 7"),
        ({"start": {"lam": 7}}, "no slider is called 'lam'"),
        ({"names": {"lam": "x"}}, "no slider is called 'lam'"),
        ({"alt": ""}, "needs a description"),
        ({"alt": "power {lam}"}, "alt must be a text or function of power, scale"),
        ({"alt": lambda power: "x"}, "alt must be a text or function of power, scale"),
        ({"other": [1, 2]}, "draw and the sliders do not fit"),
    ],
)
def test_explore_says_what_is_wrong(changes, problem, in_book, monkeypatch):
    if in_book:
        monkeypatch.setenv(figures.BOOK_BUILD, "1")
    with pytest.raises(ValueError, match=problem):
        explore(**changes)
    plt.close("all")


def test_explore_wants_a_slider():
    with pytest.raises(ValueError, match="at least one slider"):
        widgets.explore(draw, alt="x")


# -- quizzes

ASKED = {"ask": "Is $x$?", "right": ("Yes, $y$", "Since <z>."), "wrong": [("No", "Because."), ("Perhaps", "Hm.")]}


def test_quiz_in_the_book_is_a_form_with_one_right_answer_each(book):
    markup = widgets.quiz([ASKED, ASKED | {"ask": "Second?"}])._repr_mimebundle_()[0]["text/html"]
    form = markup.partition("<noscript>")[0]
    assert form.count("<fieldset><legend>") == 2 and form.count(" data-right>") == 2
    assert form.count('type="radio"') == form.count("<template>") == 6
    names = re.findall(r'name="([^"]+)"', form)
    assert len(set(names)) == 2 and names[0] == names[2]
    assert 'role="status"' in form and "Since &lt;z&gt;." in form
    assert '<span class="course-math">$y$</span>' in form


def test_quiz_elsewhere_unfolds_without_a_script():
    markup = widgets.quiz([ASKED])._repr_mimebundle_()[0]["text/html"]
    assert markup.count("<details>") == 3 and markup.count("Right.") == 1 and "<script" not in markup


def test_the_order_of_options_is_stable_and_not_the_authors():
    orders = {
        tuple(right for _, _, right in widgets.Question(f"Question {i}?", **{k: ASKED[k] for k in ("right", "wrong")})
              .options())
        for i in range(20)
    }  # fmt: skip
    assert len(orders) == 3, "the right answer comes first, second and last"
    assert widgets.Question(**ASKED).options() == widgets.Question(**ASKED).options()


@pytest.mark.parametrize(
    "questions, problem",
    [
        ([], "at least one question"),
        ([ASKED | {"ask": " "}], "needs a text"),
        ([ASKED | {"right": ("Yes", "")}], "needs a text"),
        ([ASKED | {"wrong": []}], "at least two options"),
        ([ASKED | {"wrong": [("Yes, $y$", "Same.")]}], "all different"),
    ],
)
def test_quiz_says_what_is_wrong(questions, problem):
    with pytest.raises(ValueError, match=problem):
        widgets.quiz(questions)
