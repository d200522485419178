"""Sliders and quizzes with two lives: driven by the library in Jupyter, alive without a kernel in the book.

While the book is built (``figures.in_book()``), ``explore`` draws every combination of its sliders once and
keeps the pieces of the pictures that differ; a small script in the page puts them together. Elsewhere it is a
live widget.
"""

from __future__ import annotations

import hashlib
import html
import inspect
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt

from course_lib import figures

#: Most bytes that one ``explore`` may add to a page before compression (about a tenth of it after).
BUDGET = 400_000


def explore(
    draw: Callable,
    *,
    alt: Callable[..., str] | str,
    start: Mapping | None = None,
    label: str | None = None,
    names: Mapping[str, str] | None = None,
    **sliders: Sequence,
):
    r"""Let the reader move sliders and see what ``draw`` draws.

    Call it as the last expression of a cell. In Jupyter every move calls ``draw`` again; in the book all
    combinations are drawn once, when it is built. So keep the work in ``draw`` small and the lists short, and
    fix the axes' limits, or the eye cannot compare.

    Args:
        draw: ``draw(**values)`` draws one matplotlib figure, about 4.5 in wide, and returns it (or leaves it
            current).
        alt: the description of one frame: a format string with the sliders' names, or a function of their
            values. No two frames may share one.
        start: values at which the sliders stand at first; one that is not named stands at its first value.
        label: what the whole thing is, for those who hear the page.
        names: what to call each slider; ``$...$`` is mathematics.
        **sliders: for each argument of ``draw`` the values that it may take, at least two.

    Returns:
        A displayable object: an ipywidgets box in Jupyter, precomputed frames in the book.

    Raises:
        ValueError: for sliders, start values or descriptions that do not fit together, frames of different
            size, or frames that together exceed ``BUDGET``.

    Example:
        >>> def draw(power):
        ...     fig, ax = plt.subplots()
        ...     ax.plot([0, 1, 2], [0, 1, 2**power])
        ...     return fig
        >>> box = explore(draw, power=[1, 2], alt="x to the power {power}", names={"power": "$p$"})
    """
    controls = _Controls(sliders, start or {}, names or {}, alt)
    controls.check_call(draw)
    return _frames(draw, controls, label) if figures.in_book() else _live(draw, controls, label)


@dataclass(frozen=True)
class Question:
    """A multiple choice question: what is asked, the right answer and wrong ones, each with the reason.

    Answers are pairs (text, why); ``$...$`` is mathematics. Their order on the page is fixed by their texts.
    """

    ask: str
    right: tuple[str, str]
    wrong: Sequence[tuple[str, str]]

    def options(self) -> list[tuple[str, str, bool]]:
        """Return (text, why, whether right) in an order that gives nothing away and never changes."""
        both = [(*self.right, True), *((*pair, False) for pair in self.wrong)]
        return sorted(both, key=lambda option: hashlib.sha256((self.ask + option[0]).encode()).hexdigest())


class Quiz:
    """Questions as a page shows them; made by ``quiz``."""

    def __init__(self, questions: Sequence[Question]):
        """Keep the questions."""
        self.questions = questions

    def _repr_mimebundle_(self, include=None, exclude=None):
        parts = _form(self.questions) if figures.in_book() else _unfolding(self.questions)
        return {"text/html": parts, "text/plain": repr(self)}, {}

    def __repr__(self) -> str:
        """Return the questions and their options as text."""
        lines = []
        for i, question in enumerate(self.questions, 1):
            lines.append(f"{i}. {question.ask}")
            lines += [f"   ( ) {text}" for text, _, _ in question.options()]
        return "\n".join(lines)


def quiz(questions: Sequence[Question | Mapping]) -> Quiz:
    """Ask multiple choice questions that the page itself answers, with a reason for every option.

    Args:
        questions: ``Question``s, or mappings with the keys ``ask``, ``right`` = (text, why) and ``wrong`` = a
            list of such pairs.

    Returns:
        A displayable object; no kernel is needed to answer it.

    Raises:
        ValueError: for a question without a wrong option or with equal options, or any text missing.

    Example:
        >>> quiz([{"ask": "Is ridge linear in $y$?", "right": ("Yes", "It is a matrix times $y$."),
        ...        "wrong": [("No", "The matrix depends on X and the strength only.")]}])
        1. Is ridge linear in $y$?
           ( ) No
           ( ) Yes
    """
    asked = [q if isinstance(q, Question) else Question(**q) for q in questions]
    if not asked:
        raise ValueError("quiz: wanted at least one question, got none")
    for question in asked:
        options = question.options()
        if not question.ask.strip() or any(not part.strip() for text, why, _ in options for part in (text, why)):
            raise ValueError(f"quiz: every question, option and reason needs a text; look at {question.ask!r}")
        if len(options) < 2 or len({text for text, _, _ in options}) < len(options):
            raise ValueError(f"quiz: wanted at least two options, all different; look at {question.ask!r}")
    return Quiz(asked)


class _Controls:
    """The sliders: their values, names and starting point, checked, and the description of each frame."""

    def __init__(self, sliders: Mapping, start: Mapping, names: Mapping, alt: Callable[..., str] | str):
        self.values = {name: list(values) for name, values in sliders.items()}
        if not self.values:
            raise ValueError("explore: wanted at least one slider, got none; write e.g. lam=[0, 0.1, 1]")
        for name, values in self.values.items():
            if len(values) < 2 or any(a == b for a, b in itertools.combinations(values, 2)):
                raise ValueError(f"explore: {name} wants at least two different values, got {values}")
        for extra in [*start, *names]:
            if extra not in self.values:
                raise ValueError(f"explore: no slider is called {extra!r}; there are {', '.join(self.values)}")
        for name, value in start.items():
            if value not in self.values[name]:
                raise ValueError(f"explore: {name} cannot start at {value!r}; its values are {self.values[name]}")
        self.names = {name: names.get(name, name) for name in self.values}
        self.start = {name: start.get(name, values[0]) for name, values in self.values.items()}
        self.texts = {name: [_text(value) for value in values] for name, values in self.values.items()}
        self.alt = alt

    def check_call(self, draw: Callable) -> None:
        try:
            inspect.signature(draw).bind(**self.start)
        except TypeError as error:
            raise ValueError(f"explore: draw and the sliders do not fit: {error}") from None

    def describe(self, values: Mapping) -> str:
        try:
            text = self.alt(**values) if callable(self.alt) else self.alt.format(**values)
        except (KeyError, IndexError, AttributeError, TypeError) as error:
            raise ValueError(f"explore: alt must be a text or function of {', '.join(values)}: {error!r}") from None
        return figures.described(text)

    def frames(self) -> list[dict]:
        return [dict(zip(self.values, choice, strict=True)) for choice in itertools.product(*self.values.values())]


def _text(value) -> str:
    return figures.set_numbers(f"{value:g}" if isinstance(value, float) else str(value))


def _drawn(draw: Callable, values: Mapping):
    """Call ``draw`` in the course's style; the figure must be closed by whoever asked for it."""
    with figures.style_context():
        fig = figures.checked(draw(**values))
        fig.canvas.draw()  # settles the layout while the style holds
    return fig


def _live(draw: Callable, controls: _Controls, label: str | None):
    import ipywidgets

    sliders = {
        name: ipywidgets.SelectionSlider(
            options=list(zip(controls.texts[name], values, strict=True)),
            value=controls.start[name],
            description=controls.names[name],
            continuous_update=False,  # one drawing a move, not one a pixel
            style={"description_width": "initial"},
        )
        for name, values in controls.values.items()
    }
    picture, messages = ipywidgets.HTML(), ipywidgets.Output()

    def redraw() -> None:
        values = {name: slider.value for name, slider in sliders.items()}
        fig = _drawn(draw, values)
        data, width = figures.png(fig)
        plt.close(fig)
        about = figures.attribute(controls.describe(values))
        picture.value = f'<img src="data:image/png;base64,{data}" alt="{about}" width="{width}">'

    def moved(_change) -> None:
        messages.outputs = ()
        with messages:  # an error in draw is shown under the picture, not lost in a log
            redraw()

    for slider in sliders.values():
        slider.observe(moved, names="value")
    redraw()
    title = [ipywidgets.HTML(f"<b>{html.escape(label)}</b>")] if label else []
    return ipywidgets.VBox([*title, *sliders.values(), picture, messages])


def _frames(draw: Callable, controls: _Controls, label: str | None) -> figures.Picture:
    places: dict[str, int] = {}  # each distinct piece of SVG, and its place in the list that is stored
    frames, alts, roots = [], [], set()
    first, image, width = 0, "", 0
    for values in controls.frames():
        fig = _drawn(draw, values)
        pieces = figures.svg_pieces(fig)
        if values == controls.start:
            first = len(frames)
            image, width = figures.png(fig)
        plt.close(fig)
        roots.add(pieces[0].partition(">")[0])
        frames.append([places.setdefault(piece, len(places)) for piece in pieces])
        alts.append(controls.describe(values))
    if len(roots) > 1:
        raise ValueError("explore: all frames must have one size, or the page jumps; give figsize in draw")
    if len(set(alts)) < len(alts):
        twice = next(alt for alt in alts if alts.count(alt) > 1)
        raise ValueError(f"explore: frames with the same description {twice!r}; name the values in alt")
    label = label or "Explore " + " and ".join(controls.values)
    markup = _page(controls, label, list(places), frames, alts)
    size = len(markup.encode())
    if size > BUDGET:
        raise ValueError(
            f"explore: {len(frames)} frames make {size // 1000} kB, the budget is {BUDGET // 1000} kB; offer "
            "fewer values, draw fewer points (a line needs about a hundred), keep limits and ticks the same"
        )
    bundle = {"text/html": markup, "image/png": image, "text/plain": alts[first]}
    return figures.Picture(bundle, {"image/png": {"alt": alts[first], "width": width}}, alts[first])


def _page(controls: _Controls, label: str, pieces: list[str], frames: list[list[int]], alts: list[str]) -> str:
    """Return the HTML that book/_static/explore.js brings to life; without it, it shows the first frame."""
    prefix = figures.digest("".join(pieces))
    pieces = [figures.own_ids(piece, prefix) for piece in pieces]
    data = {"texts": list(controls.texts.values()), "alts": alts, "pieces": pieces, "frames": frames}
    stored = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    first = controls.frames().index(controls.start)
    drawing = "".join(pieces[i] for i in frames[first])
    rows = []
    for name, texts in controls.texts.items():
        at = controls.values[name].index(controls.start[name])
        rows.append(
            f'<div class="course-slider"><label><span>{figures.rich_text(controls.names[name])}</span> '
            f'<input type="range" autocomplete="off" min="0" max="{len(texts) - 1}" step="1" value="{at}" '
            f'aria-valuetext="{figures.attribute(texts[at])}"></label> '
            f'<span class="course-state" aria-hidden="true">{html.escape(texts[at])}</span></div>'
        )
    return (
        f'<course-explore role="group" aria-label="{figures.attribute(label)}">'
        f'<div class="course-figure" role="img" aria-label="{figures.attribute(alts[first])}">{drawing}</div>'
        f'<div class="course-sliders">{"".join(rows)}</div><p class="course-live" aria-live="polite"></p>'
        f'<script type="application/json">{stored}</script></course-explore>'
    )


def _form(questions: Sequence[Question]) -> str:
    """Return the quiz for the book, whose own script answers it."""
    sets = []
    for number, question in enumerate(questions, 1):
        name = figures.digest(question.ask + str(number))
        options = "".join(
            f'<div class="course-option"><label><input type="radio" autocomplete="off" name="{name}"'
            f"{' data-right' if right else ''}{_spoken(text)}> <span>{figures.rich_text(text)}</span></label>"
            f"<template>{figures.rich_text(why)}</template></div>"
            for text, why, right in question.options()
        )
        sets.append(
            f"<fieldset><legend>{number}. {figures.rich_text(question.ask)}</legend>{options}"
            '<button type="button">Check</button> <p class="course-verdict" role="status"></p></fieldset>'
        )
    return f"<course-quiz>{''.join(sets)}<noscript>{_unfolding(questions)}</noscript></course-quiz>"


def _spoken(text: str) -> str:
    """Name an option that is nothing but a formula: the set formula is hidden from those who hear the page."""
    return f' aria-label="{figures.attribute(text)}"' if re.fullmatch(r"\$[^$]+\$", text) else ""


def _unfolding(questions: Sequence[Question]) -> str:
    """Return the quiz without any script: every option unfolds into its reason."""
    parts = []
    for number, question in enumerate(questions, 1):
        parts.append(f"<p><b>{number}. {figures.rich_text(question.ask)}</b></p>")
        parts += [
            f"<details><summary>{figures.rich_text(text)}</summary>"
            f"<p><b>{'Right.' if right else 'Not quite.'}</b> {figures.rich_text(why)}</p></details>"
            for text, why, right in question.options()
        ]
    return "".join(parts)
