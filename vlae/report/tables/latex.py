"""A table for LaTeX with booktabs: a file that compiles by itself, and that a paper takes in by \\input."""

import re
import unicodedata

from jinja2 import Environment

from vlae.report.tables.layout import Layout, Text

_FILE = r"""
% << told.title | comment >>: << told.metric | comment >>. << told.provenance | comment >>
% Compiles by itself, and in a paper: \usepackage{booktabs} in its preamble, \input of this file
% where the table goes, and \ref{<< told | label >>} in the text.
\expandafter\ifx\csname @nodocument\endcsname\relax\else
\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\begin{document}
\def\tableofitsown{}
\fi
\begin{table}
\centering
\setlength{\abovecaptionskip}{0pt}
\setlength{\belowcaptionskip}{6pt}
\caption{<< told.caption | tex >>}
\label{<< told | label >>}
\begin{tabular}{l<< "r" * (told.header | length - 1) >>}
\toprule
<< told.header | map("tex") | join(" & ") >> \\
\midrule
<% for line in told.lines -%>
<< line | map("cell") | join(" & ") >> \\
<% endfor -%>
\bottomrule
\end{tabular}
<%- if told.notes %>

\medskip
\begin{minipage}{\linewidth}
\footnotesize
<%- for mark, note in told.notes %>
<% if mark %>\textsuperscript{<< mark | tex >>}~<% endif %><< note | tex >>\par
<%- endfor %>
\end{minipage}
<%- endif %>
\end{table}
\ifdefined\tableofitsown\expandafter\enddocument\fi
"""
_MINUS = re.compile(r"(?<![\w.-])-(?=\d)")
"""The sign of a number."""
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


def latex(told: Layout) -> str:
    """Needs booktabs, and nothing else that is not in every LaTeX."""
    environment = Environment(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=False,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"tex": tex, "cell": _cell, "comment": comment, "label": label_of}
    return environment.from_string(_FILE.lstrip("\n")).render(told=told)


def _cell(text: Text) -> str:
    marks = rf"\textsuperscript{{{tex(','.join(text.marks))}}}" if text.marks else ""
    return (rf"\textbf{{\boldmath {tex(text.text)}}}" if text.bold else tex(text.text)) + marks


def tex(text: str) -> str:
    """What LaTeX prints as this text; ``?`` where a plain pdflatex has no letter."""
    return _MINUS.sub("$-$", "".join(map(_character, text)))


def label_of(told: Layout) -> str:
    """``tab:smoke-log-likelihood-laplace``: one table of a sweep and a metric has it."""
    metric = told.metric.removeprefix("test.").removesuffix(".mean").replace(".", " ")
    words = re.findall(r"[A-Za-z0-9.]+", f"{told.title} {metric}")
    return "tab:" + "-".join(words)


def comment(text: str) -> str:
    """One line of printable ASCII, since a comment ends where its line does."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)


def _character(character: str) -> str:
    if character in _SPELLED:
        return _SPELLED[character]
    accented = (
        character.isalpha() and unicodedata.normalize("NFD", character)[0].isascii() and character < "Ā"
    )
    return character if accented or (character.isascii() and character.isprintable()) else "?"
