"""Regularization, from weight decay to symmetry: one module a topic."""
