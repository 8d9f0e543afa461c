"""A table for LaTeX with booktabs: a file that compiles by itself, and that a paper includes by \\input.

A table wider than the text is scaled down to its width.
"""

import re
import unicodedata
from pathlib import Path

from vlae.report.tables.layout import Layout, Text

_MINUS = re.compile(r"(?<![\w.-])-(?=\d)")  # the sign of a number
_SPELLED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "†": r"$\dagger$",
    "–": "--",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex(layout: Layout) -> str:
    """The LaTeX of a table, which needs booktabs and graphicx."""
    from jinja2 import Environment, FileSystemLoader  # takes longer to import than a table to make

    loader = FileSystemLoader(Path(__file__).parent / "files")
    environment = Environment("<%", "%>", "<<", ">>", "<#", "#>", keep_trailing_newline=True, loader=loader)
    environment.filters |= {"tex": tex, "cell": _cell, "comment": comment, "label": label_of}
    return environment.get_template("table.tex.jinja").render(layout=layout)


def _cell(text: Text) -> str:
    marks = rf"\textsuperscript{{{tex(','.join(text.marks))}}}" if text.marks else ""
    return (rf"\textbf{{\boldmath {tex(text.text)}}}" if text.bold else tex(text.text)) + marks


def tex(text: str) -> str:
    """The LaTeX source of a text; ``?`` where a plain pdflatex has no letter."""
    return _MINUS.sub("$-$", "".join(map(_character, text)))


def label_of(layout: Layout) -> str:
    """``tab:smoke-log-likelihood-laplace``, from the sweep and the metric."""
    metric = layout.metric.removeprefix("test.").removesuffix(".mean").replace(".", " ")
    words = re.findall(r"[A-Za-z0-9.]+", f"{layout.title} {metric}")
    return "tab:" + "-".join(words)


def comment(text: str) -> str:
    """One line of printable ASCII, since a comment ends where its line does."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


def _character(character: str) -> str:
    if character in _SPELLED:
        return _SPELLED[character]
    letter = unicodedata.normalize("NFD", character)[0]  # without its accent
    accented = character.isalpha() and letter.isascii() and character < "Ā"
    return character if accented or (character.isascii() and character.isprintable()) else "?"
