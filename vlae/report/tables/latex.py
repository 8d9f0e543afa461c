"""Text as the source of LaTeX."""

import re
import unicodedata

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


def tex(text: str) -> str:
    r"""The LaTeX source of a text; ``?`` where a plain pdflatex has no letter.

    >>> print(tex("50% of -1 ± 2"))
    50\% of $-$1 $\pm$ 2
    """
    return _MINUS.sub("$-$", "".join(map(_character, text)))


def _character(character: str) -> str:
    if character in _SPELLED:
        return _SPELLED[character]
    letter = unicodedata.normalize("NFD", character)[0]  # without its accent
    accented = character.isalpha() and letter.isascii() and character < "Ā"
    return character if accented or (character.isascii() and character.isprintable()) else "?"
