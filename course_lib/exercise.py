"""The first line of every exercise notebook: take the answer off the shelf.

``course_lib`` holds a finished version of each function that an exercise asks for. ``begin`` makes the import
of that one module fail politely while the notebook runs, so that nobody reads the answer by accident.
"""

import importlib.abc
import sys


class _OffTheShelf(importlib.abc.MetaPathFinder):
    """Refuse the import of one module, saying why."""

    def __init__(self, module: str):
        self.module = module

    def find_spec(self, fullname, path=None, target=None):
        if fullname == self.module:
            raise ImportError(
                f"{fullname} holds the functions that this notebook asks you to write, so it cannot be "
                "imported here. Write them in the cells below; the hints fold open."
            )
        return None


def begin(topic: str) -> None:
    """Start the exercise of a topic: ``course_lib.<topic>`` cannot be imported from here on.

    Calling it again is harmless. It is a courtesy, not a lock: the grader's sandbox lacks the module.

    Args:
        topic: a module of ``course_lib``, for example ``"norm_penalties"``.

    Raises:
        ValueError: the topic is not a Python name.
    """
    if not topic.isidentifier():
        raise ValueError(
            f"topic must be the name of a module: wanted a name such as 'norm_penalties', got {topic!r}. "
            "Is the locked first cell as it was handed out?"
        )
    module = f"course_lib.{topic}"
    sys.modules.pop(module, None)
    vars(sys.modules["course_lib"]).pop(topic, None)  # where an earlier import left it
    if not any(isinstance(finder, _OffTheShelf) and finder.module == module for finder in sys.meta_path):
        sys.meta_path.insert(0, _OffTheShelf(module))
