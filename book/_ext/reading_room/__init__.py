"""The reading room: what makes the built book light, accessible and alive, one module for each thing it does."""

MODULES = (
    "surroundings",
    "reference",
    "execution",
    "mathematics",
    "folds",
    "typography",
    "terms",
    "notebooks",
    "opening",
    "runs",
    "course_map",
    "publishing",
    "scripts",
    "finish",
    "drawings",
    "bundle",
)


def setup(app):
    """Load the modules in the order in which they have to see the configuration."""
    for name in MODULES:
        app.setup_extension(f"reading_room.{name}")
    return {"parallel_read_safe": False, "parallel_write_safe": False}
