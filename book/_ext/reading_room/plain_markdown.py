"""Write a chapter's MyST as Markdown that every notebook front end shows: no roles, no directives, no macros.

What has no counterpart is said in words. Numbers that the published text takes from runs become names in
angle brackets; in a notebook the cells print them.
"""

import ast
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

FENCE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:.-]+)\} *(?P<title>[^\n]*)\n(?P<body>.*?)^(?P=fence) *$", re.M | re.S
)
LABELLED = re.compile(r"^\$\$\n?(.*?)\n?\$\$ *\(([\w:-]+)\)", re.M | re.S)
OPTION = re.compile(r"\A(?:---\n.*?\n---\n|(?::[\w-]+:[^\n]*\n)*)", re.S)
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]+)`")
LEFT_OUT = {"bibliography", "toctree", "tableofcontents", "glossary", "grid", "image", "eval-rst", "raw"}


class Plain:
    """Rewrites the cells of one chapter; equations are numbered in the order in which they come."""

    def __init__(self, folder: Path, macros: dict[str, str], cited: Callable[[str], str], numbers: dict[str, int]):
        """Keep what rewriting needs.

        Args:
            folder: where the chapter stands; included files are found from there.
            macros: the book's macros for mathematics.
            cited: from a citation's key to words such as ``Hoerl & Kennard (1970)``.
            numbers: from an equation's label to its number in the chapter.
        """
        self.folder, self.macros, self.cited, self.numbers = folder, macros, cited, numbers

    def __call__(self, text: str) -> str:
        """Return the text of a cell, rewritten."""
        text = re.sub(r"^(?:%[^\n]*|\([\w-]+\)=)\n", "", text, flags=re.M)
        while (found := FENCE.search(text)) is not None:
            text = text[: found.start()] + self._directive(found) + text[found.end() :]
        text = LABELLED.sub(lambda m: self._equation(m[1], m[2]), text)
        text = ROLE.sub(self._role, text)
        text = re.sub(r"\{[.#][^}\n]*\}", "", text)
        return expand(text, self.macros).strip()

    def _directive(self, found: re.Match) -> str:
        name, title, body = found["name"], found["title"].strip(), found["body"]
        options = OPTION.match(body)[0]
        body = body[len(options) :].strip("\n")
        if name == "math":
            label = re.search(r":label: *(\S+)", options)
            return self._equation("\n".join(filter(None, [title, body])), label and label[1])
        if name == "literalinclude":
            return self._listing(title, options)
        if name in LEFT_OUT:
            return ""
        kind = title or name.rpartition(":")[2].replace("-", " ").capitalize()
        if "dropdown" in options:
            return f"<details><summary>{kind}</summary>\n\n{body}\n\n</details>"
        heading = kind if not title or ":" not in name else f"{name.rpartition(':')[2].capitalize()}: {title}"
        return f"**{heading}.**\n\n{body}"

    def _equation(self, source: str, label: str | None) -> str:
        tag = f" \\tag{{{self.numbers[label]}}}" if label in self.numbers else ""
        return f"$$\n{source.strip()}{tag}\n$$"

    def _listing(self, path: str, options: str) -> str:
        lines = (self.folder / path).read_text(encoding="utf-8").splitlines()
        if name := re.search(r":pyobject: *(\w+)", options):
            tree = ast.parse("\n".join(lines))
            node = next(n for n in ast.walk(tree) if getattr(n, "name", None) == name[1])
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            lines = lines[first - 1 : node.end_lineno]
        if start := re.search(r":start-at: *\"?([^\"\n]*)", options):
            lines = lines[next(i for i, line in enumerate(lines) if start[1].strip() in line) :]
        return "```python\n" + textwrap.dedent("\n".join(lines)) + "\n```"

    def _role(self, found: re.Match) -> str:
        role, content = found.groups()
        if role.startswith("glue"):
            return f"⟨{content.partition(':')[0]}⟩"
        if role.startswith("cite"):
            words = "; ".join(self.cited(key.strip()) for key in content.split(","))
            return words if role == "cite:t" else "(" + re.sub(r" \((\w+)\)", r", \1", words) + ")"
        if role == "eq":
            return f"({self.numbers.get(content, content)})"
        if role == "numref":
            return "the figure"
        shown = re.sub(r"\s*<[^>]*>$", "", content)
        if role in {"func", "class", "mod", "meth", "py:func"}:
            return f"`{shown.rpartition('.')[2] if shown.startswith('~') else shown}`"
        return f"*{shown.replace('_', ' ')}*" if role in {"doc", "ref", "prf:ref"} else shown


def expand(text: str, macros: dict[str, str]) -> str:
    """Write the book's macros out, since a notebook does not know them.

    Args:
        text: Markdown with mathematics.
        macros: bodies by name; ``#1`` in a body stands for the argument in braces.

    Returns:
        The same text without any of the macros.
    """
    for name, body in macros.items():
        pattern = re.compile(
            re.escape(name) + r"(?![A-Za-z])\s*" if "#1" in body else re.escape(name) + r"(?![A-Za-z])"
        )
        while (found := pattern.search(text)) is not None:
            end, written = found.end(), body
            if "#1" in body:
                end = _after_group(text, found.end())
                written = body.replace("#1", text[found.end() : end].removeprefix("{").removesuffix("}"))
            elif text[end : end + 1].isalpha():
                written += " "
            text = text[: found.start()] + written + text[end:]
    return text


def _after_group(text: str, start: int) -> int:
    """Return where the group in braces, or the single character, that starts here ends."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return len(text)
