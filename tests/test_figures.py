"""Figures: described, the same on every run, readable in both themes and by the colour-blind."""

import base64
import itertools
import math
import re
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

from course_lib import figures  # noqa: E402


@pytest.fixture
def fig():
    with figures.style_context():
        fig, ax = plt.subplots()
        ax.plot([0, 1, 2], [0, 1, 4], color=figures.COLORS["penalty"], label="L2")
        ax.set(xlabel=r"strength $\lambda$", ylabel="error")
        ax.legend()
    yield fig
    plt.close(fig)


@pytest.fixture
def book(monkeypatch):
    monkeypatch.setenv(figures.BOOK_BUILD, "1")


@pytest.mark.parametrize("alt", ["", "  \n", None, 3])
def test_a_figure_without_a_description_is_refused(fig, alt):
    with pytest.raises(ValueError, match="description"):
        figures.picture(fig, alt=alt)


def test_alt_cannot_be_forgotten(fig):
    with pytest.raises(TypeError, match="alt"):
        figures.show(fig)


def test_outside_the_book_a_figure_is_a_png_with_its_description(fig):
    bundle, metadata = figures.picture(fig, alt="A  rising\n line.")._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png"}
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == metadata["image/png"]["alt"] == "A rising line."
    assert not plt.fignum_exists(fig.number), "left open, a front end would draw it again"


def test_in_the_book_a_figure_follows_the_theme(fig, book):
    markup = figures.picture(fig, alt='Says "1 < 2".').bundle["text/html"]
    assert 'role="img" aria-label="Says &quot;1 &lt; 2&quot;."' in markup
    assert "currentColor" in markup and "var(--fig-blue" in markup and "var(--fig-paper" in markup
    fixed = re.sub(r"var\([^)]*\)", "", markup)
    assert not re.findall(r"#[0-9a-f]{6}\b", fixed), "a colour that no theme can change"
    assert "<style" not in markup and "<metadata" not in markup and "xlink" not in markup


def test_references_within_a_figure_lead_somewhere_and_are_its_own(fig, book):
    markup = figures.picture(fig, alt="A line.").bundle["text/html"]
    ids = re.findall(r' id="([^"]+)"', markup)
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', markup))
    assert {a or b for a, b in wanted} == set(ids)
    prefix = ids[0].split("-")[0]
    assert re.fullmatch("c[0-9a-f]{8}", prefix) and all(i.startswith(prefix) for i in ids)


def test_the_bytes_of_a_figure_do_not_depend_on_the_process(tmp_path):
    program = """
import matplotlib; matplotlib.use("agg")
import matplotlib.pyplot as plt
from course_lib import figures
figures.use_style()
fig, ax = plt.subplots()
ax.plot([0, 1], [1, 0], "o-"); ax.set_xlabel("$x_1$"); ax.imshow([[0, 1], [1, 0]])
print(figures.picture(fig, alt="A line.").bundle)
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, figures.BOOK_BUILD: "1", "MPLCONFIGDIR": str(tmp_path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] and len(runs[0]) > 5000


def test_too_wide_a_figure_is_refused_with_the_fix():
    fig, _ = plt.subplots(figsize=(8, 3))
    with pytest.raises(ValueError, match="at most 6 in.*got 8.*use_style"):
        figures.picture(fig, alt="Wide.")
    plt.close(fig)


def test_what_is_no_figure_is_refused():
    with pytest.raises(ValueError, match="Figure or Axes, got list"):
        figures.picture([], alt="Nothing.")


def test_axes_and_the_current_figure_will_do(fig):
    assert figures.picture(fig.axes[0], alt="Axes.").alt == "Axes."
    with figures.style_context():
        plt.figure()
    assert figures.picture(alt="Current.").alt == "Current."


def test_interval_is_the_t_interval_of_the_mean():
    from scipy import stats

    values = [0.91, 0.93, 0.92, 0.95]
    mean, low, high = figures.interval(values)
    sem = np.std(values, ddof=1) / 2
    assert np.allclose((low, high), stats.t.interval(0.95, 3, loc=np.mean(values), scale=sem))
    assert isinstance(mean, float) and f"{figures.interval(values):.4f}".startswith("0.9275 ± ")


def test_interval_covers_the_mean_as_often_as_it_says():
    runs = np.random.default_rng(0).normal(size=(5, 4000))
    _, low, high = figures.interval(runs)
    assert abs(((low < 0) & (high > 0)).mean() - 0.95) < 0.015


def test_interval_takes_tensors_and_axes():
    runs = torch.arange(6.0).reshape(2, 3)
    assert np.allclose(figures.interval(runs).mean, [1.5, 2.5, 3.5])
    assert np.allclose(figures.interval(runs, axis=1).mean, [1, 4])


@pytest.mark.parametrize("values, problem", [([0.9], "two runs"), (0.9, "two runs"), ([0.9, np.nan], "diverged")])
def test_interval_refuses_what_has_none(values, problem):
    with pytest.raises(ValueError, match=problem):
        figures.interval(values)


def test_band_draws_mean_and_interval(fig):
    runs = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    drawn = figures.band(fig.axes[0], [0, 1, 2], runs, "two seeds", "data")
    line = fig.axes[0].lines[-1]
    assert np.allclose(line.get_ydata(), [2, 3, 4]) and line.get_label() == "two seeds"
    assert np.allclose(drawn.half, figures.interval(runs).half) and len(fig.axes[0].collections) == 1


@pytest.mark.parametrize(
    "x, runs, color, problem",
    [
        ([0, 1], [[1, 2], [2, 3]], "mauve", "color is one of"),
        ([0, 1, 2], [[1, 2], [2, 3]], "data", "one row a seed"),
        ([0, 1], [1, 2], "data", "one row a seed"),
        ([0, 1], [[1, 2]], "data", "two runs"),
    ],
)
def test_band_refuses_what_does_not_fit(fig, x, runs, color, problem):
    with pytest.raises(ValueError, match=problem):
        figures.band(fig.axes[0], x, runs, "bad", color)


def linear(color):
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    dark, light = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] for c in (a, b))
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira & Fernandes (2009), severity 1.
EYES = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("palette, page, least", [(figures._LIGHT, "#ffffff", 3), (figures._DARK, "#121212", 4.5)])
def test_series_stand_out_against_the_page(palette, page, least):
    assert min(contrast(color, page) for color in palette.values()) >= least


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("palette", [figures._LIGHT, figures._DARK], ids=["light", "dark"])
def test_every_pair_of_series_can_be_told_apart(palette, eye):
    seen = {name: lab(np.array(EYES[eye]) @ linear(color)) for name, color in palette.items()}
    nearest = min(np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(seen, 2))
    assert nearest > 20, "CIELAB distance; 2.3 is just noticeable"


def test_the_style_sheet_has_every_colour_in_both_themes():
    css = figures.theme_css()
    for name in figures._LIGHT:
        assert f"--fig-{name}:{figures._LIGHT[name]}" in css and f"--fig-{name}:{figures._DARK[name]}" in css


def test_style_stays_inside_its_context():
    before = plt.rcParams["font.size"]
    with figures.style_context():
        assert plt.rcParams["figure.figsize"][0] == figures.WIDTH
    assert plt.rcParams["font.size"] == before


def test_a_column_of_intervals_has_equally_many_decimals():
    widths = {"like": [0.8, 1.3, 2.2], "far": [0.02, 3.0, 1.3], "none": [0.0, 0.012, math.inf]}
    rows = [
        [str(i), *(figures.Interval(84.6, 84.6 - part[i], 84.6 + part[i]) for part in widths.values())]
        for i in range(3)
    ]
    text = [
        line.split("  ") for line in repr(figures.table(rows, ["row", *widths], caption="Widths.")).splitlines()[2:]
    ]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in text]
    assert [row[1] for row in cells] == ["84.6 ± 0.8", "84.6 ± 1.3", "84.6 ± 2.2"]
    assert [row[2] for row in cells] == ["84.60 ± 0.02", "85 ± 3", "84.6 ± 1.3"]
    assert [row[3] for row in cells] == ["84.6 ± 0", "84.60 ± 0.01", "84.6 ± inf"]


def test_table_has_headings_caption_and_scopes():
    rows = [{"method": "plain", "accuracy": 0.95}, {"method": "L2", "accuracy": figures.interval([0.96, 0.97])}]
    table = figures.table(rows, ["method", "accuracy"], caption="On <digits>.", highlight="L2")
    markup = table._repr_mimebundle_()[0]["text/html"]
    assert "<caption><span>On &lt;digits&gt;.</span></caption>" in markup
    assert markup.count('<th scope="col"') == 2 and markup.count('<th scope="row"') == 2
    assert '<tr class="chosen"><th scope="row">L2</th><td class="number">0.96\xa0±\xa00.06</td>' in markup
    assert repr(table).splitlines()[2].split() == ["plain", "0.95"]


def test_table_marks_mathematics_and_names_rows_that_are_nothing_else():
    markup = figures.table([["$L_2$", None]], ["m", "$x$"], caption="c")._repr_mimebundle_()[0]["text/html"]
    assert '<span class="course-math">$x$</span>' in markup and '<span class="course-said">L_2</span>' in markup
    assert "<td" in markup and "–</td>" in markup


@pytest.mark.parametrize(
    "rows, options, problem",
    [
        ([["a", 1]], {"caption": " "}, "caption is required"),
        ([["a"]], {"caption": "c"}, "2 cells a row"),
        ([["a", 1]], {"caption": "c", "highlight": "b"}, "no row named"),
    ],
)
def test_table_refuses_what_does_not_fit(rows, options, problem):
    with pytest.raises(ValueError, match=problem):
        figures.table(rows, ["x", "y"], **options)


@pytest.mark.parametrize(
    "text, markup",
    [
        ("a < b", "a &lt; b"),
        (r"$a<b$ or", '<span class="course-math">$a&lt;b$</span> or'),
        (r"costs \$5 and \$6", "costs $5 and $6"),
        ("one $ alone", "one $ alone"),
        ("at most 1e-07", "at most 10⁻⁷"),
        (
            "2.5e+10, $1e-7$",
            '2.5·10¹⁰, <span class="course-math">$1e-7$</span>',
        ),
        ("1.2e+00", "1.2"),
        ("0x1e-07 and e-07", "0x1e-07 and e-07"),
    ],
)
def test_rich_text(text, markup):
    assert figures.rich_text(text) == markup


def test_images_without_axes_have_a_whole_frame_and_others_keep_theirs():
    with figures.style_context():
        fig, (image, plot) = plt.subplots(1, 2)
        image.imshow([[0, 1]])
        image.set(xticks=[], yticks=[])
        plot.plot([0, 1])
        figures.checked(fig)
    assert all(spine.get_visible() for spine in image.spines.values())
    assert not plot.spines["top"].get_visible()
    plt.close(fig)


def test_long_cells_are_marked():
    markup = figures.table([["C4, 10 fields, batch 128", "a" * 50]], ["layer", "what"], caption="c").markup
    assert '<th scope="row" class="phrase">' in markup and '<td class="long">' in markup
