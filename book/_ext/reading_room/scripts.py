"""Load the scripts of sliders, quizzes and previews on the pages that have any."""

SCRIPTS = {
    "<course-explore": "explore.js",
    "<course-quiz": "quiz.js",
    'href="#equation-': "preview.js",
    'class="citation': "preview.js",
    "#term-": "preview.js",
}


def load(app, pagename, templatename, context, doctree):
    """Add a script where its element is used."""
    body = context.get("body", "")
    for script in dict.fromkeys(script for element, script in SCRIPTS.items() if element in body):
        app.add_js_file(script, loading_method="defer")


def setup(app):
    """Connect to each page."""
    app.connect("html-page-context", load)
    return {"parallel_read_safe": True}
