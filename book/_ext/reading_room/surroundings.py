"""Prepare what the build needs around it: the kernels' environment, our static files, the figures' colours."""

import hashlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "book" / "_static"


def prepare(app, config):
    """Tell kernels that they work for the book, and let them import the working tree's library."""
    sys.path.insert(0, str(ROOT))
    os.environ["COURSE_BOOK_BUILD"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # chapters run beside one another, one core each
    os.environ["PYTHONHASHSEED"] = "0"
    # Appended here, not in _config.yml: Jupyter Book would load every script below it on every page.
    config.html_static_path.append(str(STATIC))
    config.course_machinery = machinery()


def machinery() -> str:
    """Return a hash of this extension and the static files; Sphinx makes all pages anew when it changes."""
    state = hashlib.sha256()
    for path in sorted([*Path(__file__).parent.glob("*.[pm]*"), *STATIC.glob("*.*s*")]):
        state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()


def write_colors(app):
    """Write the style sheet in which the figures' colours have their light and dark values."""
    if app.builder.format != "html":
        return
    from course_lib import figures

    target = Path(app.outdir, "_static", "course-colors.css")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(figures.theme_css(), encoding="utf-8")


def setup(app):
    """Connect to the first events of a build."""
    # Jupyter Book always sets this option of sphinx_comments, which we leave out.
    app.add_config_value("comments_config", {}, "", [dict])
    app.add_config_value("course_machinery", "", "env", [str])
    app.connect("config-inited", prepare, priority=100)
    app.connect("builder-inited", write_colors)
    app.add_css_file("course-colors.css")
    app.add_css_file("course.css", priority=900)
    app.add_js_file("course.js", loading_method="defer")
    return {"parallel_read_safe": True}
