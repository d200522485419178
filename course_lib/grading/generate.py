"""nbgrader's ``generate_assignment`` for several topics in one process; nbgrader takes seconds to start."""

from __future__ import annotations

import sys

from course_lib.grading.quick_imports import without_iri_grammar

with without_iri_grammar():
    from nbgrader.apps import NbGraderAPI
    from nbgrader.apps.baseapp import NbGrader


def main(topics: list[str]) -> int:
    """Release topics of the course in the current folder, and enter them in its gradebook.

    Args:
        topics: the assignments' names, as on the command line.

    Returns:
        0, or 1 at the first topic that nbgrader refuses; what it logged is printed to stderr.
    """
    application = NbGrader()
    application.load_config_file()
    nbgrader = NbGraderAPI(config=application.config)
    for topic in topics:
        done = nbgrader.generate_assignment(topic, force=True, create=True)
        if not done["success"]:
            print(f"nbgrader refused {topic}:\n{done['log']}{done.get('error', '')}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
