"""What surrounds nbgrader: hidden checks, sample class, grading."""
