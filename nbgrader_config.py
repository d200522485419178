"""nbgrader's configuration: where the course keeps its notebooks, and how plain nbgrader runs them."""

import os
from pathlib import Path

# Hidden tests compare against tests/checks; `nbgrader` is run from the course's root.
os.environ.setdefault("COURSE_CHECKS", str(Path.cwd() / "tests" / "checks"))
# One thread a kernel: two on a busy machine slow small tensors down by far more than they gain.
os.environ.setdefault("OMP_NUM_THREADS", "1")

c = get_config()  # noqa: F821 (nbgrader defines it)
c.CourseDirectory.course_id = "regularization"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError()"}
c.ExecutePreprocessor.timeout = 20  # seconds a cell
c.ExecutePreprocessor.interrupt_on_timeout = True
