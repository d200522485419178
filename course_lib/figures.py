"""One look for every picture: readable in light and dark, by the colour-blind, on a phone, and aloud.

A figure is drawn once with matplotlib. In the published book it becomes inline SVG whose ink is the page's
text colour and whose series colours are CSS variables, so one file serves the light and the dark theme;
everywhere else it is a PNG. Either way it carries a description (alt text), without which it is refused.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

#: Set by the book's Sphinx extension and inherited by the kernels that it starts.
BOOK_BUILD = "COURSE_BOOK_BUILD"

#: Drawing width in inches at which 9 pt text is still 9 px or more on a 390 px phone.
WIDTH = 4.5

#: Ink (text, axes) and paper of the light theme; in the book they follow the page.
INK, PAPER = "#1f2328", "#fdfdfe"

#: Series colours for light and dark backgrounds: at least 3:1 (light) and 4.5:1 (dark) against the page, and
#: every pair apart under the three kinds of colour blindness (tests/test_figures.py measures both).
_LIGHT = {
    "plain": "#7d828e",
    "blue": "#17488f",
    "orange": "#b87a00",
    "green": "#149a5b",
    "purple": "#8426cc",
    "red": "#861b31",
}
_DARK = {
    "plain": "#cccfd8",
    "blue": "#3badea",
    "orange": "#ff8a45",
    "green": "#14ea98",
    "purple": "#bb5bfd",
    "red": "#ff4593",
}
_ROLES = {
    "penalty": "blue",
    "data": "orange",
    "symmetry": "green",
    "architecture": "purple",
    "failure": "red",
}

#: Colours by name (``plain``, ``blue``, ...) and by part in the story: ``plain`` is the unregularized
#: baseline; ``penalty``, ``data``, ``architecture``, ``symmetry`` regularize; ``failure`` warns.
COLORS = _LIGHT | {role: _LIGHT[hue] for role, hue in _ROLES.items()}

_DASHES = {
    "plain": "--",
    "blue": "-",
    "orange": "-.",
    "green": (0, (7, 1.5)),
    "purple": (0, (5, 1, 1, 1, 1, 1)),
    "red": ":",
}
_MARKERS = {"plain": "o", "blue": "s", "orange": "^", "green": "D", "purple": "v", "red": "X"}

_STYLE = {
    "figure.figsize": (WIDTH, 2.9),
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs on every machine
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": mpl.cycler(color=[color for name, color in _LIGHT.items() if name != "plain"]),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
    "patch.edgecolor": INK,
    "hatch.color": INK,
    "legend.frameon": True,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.8,
    "image.cmap": "cividis",
    "svg.fonttype": "path",  # the same letters on every machine, at the place where they were laid out
    "svg.hashsalt": "course",
    "svg.image_inline": True,
}


class Interval(NamedTuple):
    """A mean with the ends of its 95% interval; printed as ``mean ± half width``."""

    mean: np.ndarray | float
    low: np.ndarray | float
    high: np.ndarray | float

    @property
    def half(self) -> np.ndarray | float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def __format__(self, spec: str) -> str:
        """Format both numbers with ``spec``; without one, to the first digit of the half width, or two if it is a 1.

        >>> print(Interval(84.6, 83.4, 85.8), Interval(31.0, 30.2, 31.8), Interval(0.5, 0.5, 0.5))
        84.6 ± 1.2 31.0 ± 0.8 0.5 ± 0
        """
        if spec:
            return f"{self.mean:{spec}} ± {self.half:{spec}}"
        if not self._is_ordinary:
            return f"{self.mean:.3g} ± {self.half:.1g}"
        first, _, power = f"{self.half:.0e}".partition("e")
        return format(self, f".{max(0, (first == '1') - int(power))}f")

    @property
    def _is_ordinary(self) -> bool:
        return 1e-4 <= self.half < math.inf

    def __str__(self) -> str:
        """Print as mean ± half width."""
        return format(self)


class Picture:
    """A finished figure: what a notebook front end asks for, and its description."""

    def __init__(self, bundle: dict[str, str], metadata: dict[str, dict], alt: str):
        """Keep the mime bundle as it was made."""
        self.bundle, self.metadata, self.alt = bundle, metadata, alt

    def _repr_mimebundle_(self, include=None, exclude=None):
        return self.bundle, self.metadata

    def __repr__(self) -> str:
        """Return the description: it is all that plain text can show."""
        return self.alt


def use_style() -> None:
    """Draw everything that follows in the course's style (call once, after the imports).

    Example:
        >>> use_style()
        >>> plt.rcParams["font.size"]
        9.5
    """
    mpl.rcParams.update(_STYLE)


def in_book() -> bool:
    """Say whether this kernel is working for the published book rather than for a person."""
    return bool(os.environ.get(BOOK_BUILD))


def picture(fig: Figure | Axes | None = None, *, alt: str) -> Picture:
    """Finish a figure and return it as a displayable object (for ``glue``, or to show later).

    The figure is closed, so that no front end draws it a second time.

    Args:
        fig: the figure, one of its axes, or None for the current one.
        alt: what the picture shows and what to see in it, in words.

    Returns:
        Inline SVG and PNG in the book, PNG elsewhere, always with ``alt`` as text.

    Raises:
        ValueError: if ``alt`` is missing or the figure is too wide to be read on a phone.
    """
    alt = described(alt)
    fig = checked(fig)
    bundle, metadata = {"text/plain": alt}, {"image/png": {"alt": alt}}
    try:
        bundle["image/png"], metadata["image/png"]["width"] = png(fig)
        if in_book():
            drawing = "".join(svg_pieces(fig))
            bundle["text/html"] = framed(drawing, alt, prefix=digest(drawing))
    finally:
        plt.close(fig)
    return Picture(bundle, metadata, alt)


def show(fig: Figure | Axes | None = None, *, alt: str) -> None:
    """Finish a figure and display it here, with its description.

    Args:
        fig: the figure, one of its axes, or None for the current one.
        alt: what the picture shows and what to see in it, in words.

    Raises:
        ValueError: if ``alt`` is missing or the figure is too wide to be read on a phone.

    Example:
        >>> use_style()
        >>> fig, ax = plt.subplots()
        >>> _ = ax.plot([0, 1], [0, 1])
        >>> show(fig, alt="A line that rises from 0 to 1.")
        A line that rises from 0 to 1.
    """
    from IPython.display import display

    display(picture(fig, alt=alt))


def interval(values, axis: int = 0) -> Interval:
    r"""Mean over runs and its 95% Student-t interval.

    mean ± t₀.₉₇₅(n−1) · s / √n, where s is the sample standard deviation (divided by n − 1, not n) and n the
    number of runs. It speaks of the mean over seeds, not of the spread of single runs. Not differentiable.

    Args:
        values: results of at least two runs (array-like or tensor).
        axis: the axis that counts the runs.

    Returns:
        ``Interval(mean, low, high)``, floats for 1-D input, arrays otherwise.

    Raises:
        ValueError: for fewer than two runs, or values that are not finite.

    Example:
        >>> print(interval([0.91, 0.93, 0.92]))
        0.92 ± 0.02
    """
    runs = np.asarray(values, dtype=float)
    if runs.ndim == 0 or runs.shape[axis] < 2:
        raise ValueError(
            f"interval: wanted at least two runs along axis {axis}, got shape {runs.shape}; run more seeds"
        )
    if not np.isfinite(runs).all():
        raise ValueError("interval: wanted finite values, got NaN or infinity; look at the run that diverged")
    n = runs.shape[axis]
    mean = runs.mean(axis)
    half = stdtrit(n - 1, 0.975) * runs.std(axis, ddof=1) / np.sqrt(n)
    if runs.ndim == 1:
        mean, half = float(mean), float(half)
    return Interval(mean, mean - half, mean + half)


def band(ax: Axes, x, runs, label: str, color: str = "penalty", marker: bool = True) -> Interval:
    """Draw the mean over runs as a line, and its 95% t-interval as a band.

    Colour, dash and marker change together, so that no line is told apart by colour alone.

    Args:
        ax: where to draw.
        x: positions, shape (points,).
        runs: one row a run (seed), shape (runs, points).
        label: the name in the legend.
        color: a name in ``COLORS``.
        marker: whether to mark the points.

    Returns:
        The interval that was drawn, arrays of shape (points,).

    Raises:
        ValueError: for an unknown colour, shapes that do not fit, or fewer than two runs.
    """
    x, runs = np.asarray(x, dtype=float), np.asarray(runs, dtype=float)
    if color not in COLORS:
        raise ValueError(f"band: color is one of {', '.join(COLORS)}, got {color!r}")
    if runs.ndim != 2 or runs.shape[1:] != x.shape:
        raise ValueError(f"band: wanted runs of shape (runs, {len(x)}), one row a seed; got {runs.shape}")
    hue, drawn = _ROLES.get(color, color), interval(runs)
    shape = {"marker": _MARKERS[hue]} if marker else {}
    ax.plot(x, drawn.mean, color=COLORS[color], linestyle=_DASHES[hue], label=label, **shape)
    ax.fill_between(x, drawn.low, drawn.high, color=COLORS[color], alpha=0.2, linewidth=0)
    return drawn


class Table:
    """A table for people and for screen readers; made by ``table``."""

    def __init__(self, markup: str, plain: str):
        """Keep the two forms as they were made."""
        self.markup, self.plain = markup, plain

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self.markup, "text/plain": self.plain}, {}

    def __repr__(self) -> str:
        """Return the table as aligned text."""
        return self.plain


def table(
    rows: Sequence[Mapping | Sequence],
    columns: Sequence[str],
    *,
    caption: str,
    highlight: str | Sequence[str] = (),
    digits: int = 3,
) -> Table:
    """Lay out results as an accessible table that follows the page's theme.

    Args:
        rows: one mapping (by column name) or sequence a row; the first column names the row. Numbers are
            rounded to ``digits`` significant digits, an ``Interval`` is printed as mean ± half width, with as many
            decimals as its column's others, None as a dash. ``$...$`` in any text is mathematics.
        columns: the column headings.
        caption: what the table shows; required.
        highlight: name or names (first column) of the rows to set apart.
        digits: significant digits of plain numbers.

    Returns:
        A displayable object.

    Raises:
        ValueError: for a missing caption, rows of the wrong length, or a highlighted row that is not there.

    Example:
        >>> rows = [["plain", 0.95], ["L2", 0.9675]]
        >>> table(rows, ["method", "accuracy"], caption="Test accuracy on digits.")
        Test accuracy on digits.
        method  accuracy
        plain   0.95
        L2      0.968
    """
    if not str(caption or "").strip():
        raise ValueError("table: a caption is required; say in one line what the numbers are")
    body = [[row.get(c) for c in columns] if isinstance(row, Mapping) else list(row) for row in rows]
    for row in body:
        if len(row) != len(columns):
            raise ValueError(f"table: wanted {len(columns)} cells a row ({', '.join(columns)}), got {row}")
    chosen = {highlight} if isinstance(highlight, str) else set(highlight)
    if missing := chosen - {row[0] for row in body}:
        raise ValueError(f"table: no row named {sorted(missing)}; rows are {[row[0] for row in body]}")
    written = [_cells(values, digits) for values in zip(*body, strict=True)]
    texts = list(zip(*written, strict=True))
    numeric = [all(not isinstance(row[i], str) for row in body) for i in range(len(columns))]
    head = "".join(f'<th scope="col"{_align(numeric[i])}>{rich_text(name)}</th>' for i, name in enumerate(columns))
    lines = []
    for values, cells in zip(body, texts, strict=True):
        mark = ' class="chosen"' if values[0] in chosen else ""
        tds = "".join(f"<td{_align(numeric[i], cells[i])}>{rich_text(cells[i])}</td>" for i in range(1, len(cells)))
        lines.append(f'<tr{mark}><th scope="row"{_align(False, cells[0][:40])}>{_row_name(cells[0])}</th>{tds}</tr>')
    markup = (
        f'<div class="course-table" role="region" aria-label="{attribute(caption)}" tabindex="0"><table>'
        f"<caption><span>{rich_text(caption)}</span></caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
    widths = [max(map(len, column)) for column in zip(list(columns), *texts, strict=True)]
    layout = "  ".join(f"{{:{width}}}" for width in widths)
    return Table(markup, "\n".join([caption, *(layout.format(*row).rstrip() for row in (columns, *texts))]))


# -- what widgets.py needs as well ----------------------------------------------------------------------


def described(alt: str) -> str:
    """Return a description on one line, or refuse an empty one."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(
            f"figure: every picture needs a description, got alt={alt!r}; say what is drawn and what it shows"
        )
    return re.sub(r"\s+", " ", alt).strip()


def checked(fig: Figure | Axes | None) -> Figure:
    """Return the figure that is meant, or refuse one that cannot be read on a phone."""
    fig = plt.gcf() if fig is None else fig.get_figure() if isinstance(fig, Axes) else fig
    if not isinstance(fig, Figure):
        raise ValueError(f"figure: wanted a matplotlib Figure or Axes, got {type(fig).__name__}; pass the figure")
    if (width := fig.get_size_inches()[0]) > 6:
        raise ValueError(
            f"figure: at most 6 in wide can be read on a phone, got {width:g}; call use_style() before "
            f"drawing (it draws {WIDTH} in wide) and stack panels"
        )
    for ax in fig.axes:
        if ax.images and not [*ax.get_xticks(), *ax.get_yticks()]:  # no axes to read: a frame, on all sides alike
            ax.spines[:].set(visible=True, linewidth=0.5, alpha=0.5)
    return fig


def style_context():
    """Return a context in which figures are drawn in the course's style, and nothing is changed after it."""
    return mpl.rc_context(_STYLE)


def png(fig: Figure, dpi: int = 144) -> tuple[str, int]:
    """Draw a figure as base64-encoded PNG on white; return it with the width in CSS pixels to show it at."""
    with mpl.rc_context({"savefig.facecolor": "white"}):
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode(), round(fig.get_size_inches()[0] * 96)


def svg_pieces(fig: Figure) -> list[str]:
    """Draw a figure as theme-following SVG, cut where matplotlib starts a group.

    Pieces of two frames that show the same thing are the same text, so ``explore`` can store each once.
    Joined, they are the whole ``<svg>``. The bytes depend on nothing but the figure.
    """
    buffer = io.StringIO()
    salt = {k: _STYLE[k] for k in ("svg.fonttype", "svg.hashsalt", "svg.image_inline")}
    with mpl.rc_context(salt):
        fig.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.S)
    view = re.search(r'viewBox="[^"]*"', text)[0]
    root = f'<svg {view} fill="currentColor" stroke-linejoin="round" aria-hidden="true" focusable="false">'
    text = re.sub(r"<svg[^>]*>", root, text, count=1)
    text = text.replace("xlink:href", "href")
    # Scales place glyphs of 1/100 and 1/64 units: rounding them would deform letters.
    text = re.sub(r"(?:scale|matrix)\([^)]*\)|-?\d+\.\d{3,}(?!\d)", _two_decimals, text)
    text = re.sub(r"\s+", " ", text).replace("> <", "><").strip()
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r" ?([MLHVCQZz]) ?", r"\1", path[0]), text)
    text = re.sub(r'<path d="[^"]*" style="fill: none"/>', "", text)  # backgrounds: the page has its own
    pieces = re.split(r'(?=<g id=")', text)
    kept = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", text))
    kept = {name for pair in kept for name in pair if name}

    def shorten(match: re.Match) -> str:
        return match[0] if match[1] in kept else ""

    pieces = [re.sub(r' id="([^"]+)"', shorten, piece) for piece in pieces]
    return [_themed(piece) for piece in pieces]


def framed(drawing: str, alt: str, prefix: str) -> str:
    """Wrap SVG text for the page, under ids that no other figure of the page has."""
    label = f'role="img" aria-label="{attribute(alt)}"'
    return f'<div class="course-figure" {label}>{own_ids(drawing, prefix)}</div>'


def own_ids(drawing: str, prefix: str) -> str:
    """Give every id of an SVG text, and every reference to one, a prefix."""
    drawing = re.sub(r' id="', f' id="{prefix}-', drawing)
    return drawing.replace("url(#", f"url(#{prefix}-").replace('href="#', f'href="#{prefix}-')


def digest(text: str) -> str:
    """Return eight hexadecimal digits that depend on the text alone (``hash`` changes from run to run)."""
    return "c" + hashlib.sha256(text.encode()).hexdigest()[:8]


def rich_text(text: str) -> str:
    r"""Escape a text for HTML, marking ``$...$`` so that the book sets it as mathematics when it is built.

    In a notebook the front end's own MathJax sets it. Write a literal dollar sign as ``\$``. Numbers are set as
    ``set_numbers`` does.
    """
    parts = re.split(r"(?<!\\)\$(.+?)(?<!\\)\$", str(text), flags=re.S)
    out = []
    for i, part in enumerate(parts):
        safe = html.escape(part if i % 2 else part.replace("\\$", "$"), quote=False)
        out.append(f'<span class="course-math">${safe}$</span>' if i % 2 else set_numbers(safe))
    return "".join(out)


_SCIENTIFIC = re.compile(r"\b(\d+(?:\.\d+)?)e([+-])0*(\d+)\b")


def set_numbers(text: str) -> str:
    r"""Write the numbers of a plain text as in print: powers of ten, true minus signs, thousands apart, kept together.

    >>> set_numbers("-0.3 ± 2e-07 of 10000, 1e+02")
    '−0.3\xa0±\xa02·10⁻⁷ of 10\xa0000, 10²'
    """

    def power(number: re.Match) -> str:
        mantissa, sign, exponent = number.groups()
        times = "" if mantissa == "1" else f"{mantissa}·"
        raised = f"{sign.replace('+', '')}{exponent}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return mantissa if exponent == "0" else f"{times}10{raised}"

    text = re.sub(r"(?<![\w.)\]/–-])-(?=\d)", "−", _SCIENTIFIC.sub(power, text))
    apart = re.sub(r"(?<![\w.,])\d{5,}(?!\w|[.,]\d)", lambda whole: f"{int(whole[0]):,}".replace(",", " "), text)
    return kept_together(apart)


def kept_together(text: str) -> str:
    r"""Let no line break part a number from its per cent, its half width or its thousands.

    >>> kept_together("3 ± 1 % of 60 000 images")
    '3\xa0±\xa01\xa0% of 60\xa0000 images'
    """
    return re.sub(r"(?<=\d) (?=%|±|\d{3}(?!\d))|(?<=±) (?=\d)", "\N{NO-BREAK SPACE}", text)


def attribute(text: str) -> str:
    """Escape a text for an HTML attribute; dollars of mathematics are dropped, newlines become spaces."""
    return html.escape(re.sub(r"\s+", " ", re.sub(r"(?<!\\)\$", "", str(text))).strip(), quote=True)


def theme_css() -> str:
    """Return the style sheet that gives ink and series colours their two values; the book links it."""

    def block(colors: Mapping[str, str]) -> str:
        return "".join(f"--fig-{name}:{value};" for name, value in colors.items())

    light, dark = block(_LIGHT | {"paper": "#fff"}), block(_DARK | {"paper": "#121212"})
    return f"html{{{light}}}\nhtml[data-theme=dark]{{{dark}}}\n@media print{{html[data-theme]{{{light}}}}}\n"


def _cells(values: Sequence, digits: int) -> list[str]:
    """Write a column; intervals of like width have equally many decimals, enough for a digit of the narrowest."""
    halves = [value.half for value in values if isinstance(value, Interval) and value._is_ordinary]
    alike = bool(halves) and max(halves) < 100 * min(halves)
    spec = f".{max(0, -int(f'{min(halves):.0e}'.partition('e')[2]))}f" if alike else ""
    return [_cell(value, digits, spec) for value in values]


def _cell(value, digits: int, spec: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, Interval):
        return format(value, spec if value._is_ordinary else "")
    if isinstance(value, str | bool | int | np.integer):
        return str(value)
    return f"{float(value):.{digits}g}"


def _row_name(name: str) -> str:
    """Spell out a name that is nothing but mathematics, which checkers take for an empty heading."""
    if not re.fullmatch(r"\$[^$]+\$", name.strip()):
        return rich_text(name)
    return f'<span aria-hidden="true">{rich_text(name)}</span><span class="course-said">{attribute(name)}</span>'


def _align(numeric: bool, text: str = "") -> str:
    """Say how a cell stands: numbers to the right, a text with room to be read (the name of a row needs less)."""
    kind = "number" if numeric else "long" if len(text) > 40 else "phrase" if len(text) > 20 else ""
    return f' class="{kind}"' if kind else ""


def _two_decimals(match: re.Match) -> str:
    number = match[0]
    if number[0] in "sm":  # scale(...) or matrix(...)
        return number
    short = f"{float(number):.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def _themed(piece: str) -> str:
    """Replace fixed colours by the page's: ink follows the text, series colours follow the theme."""
    for color in (INK, "#000000"):
        piece = piece.replace(color, "currentColor")
    piece = piece.replace(PAPER, f"var(--fig-paper,{PAPER})")
    for name, color in _LIGHT.items():
        piece = piece.replace(color, f"var(--fig-{name},{color})")
    return piece
