"""A table for LaTeX with booktabs: a file that compiles by itself, and that a paper includes by \\input.

A table wider than the text is scaled down to its width.
"""

import re
import unicodedata

from jinja2 import Environment

from vlae.report.tables.layout import Layout, Text

_FILE = r"""
% << layout.title | comment >>: << layout.metric | comment >>. << layout.provenance | comment >>
% Compiles by itself, and in a paper: \usepackage{booktabs,graphicx} in its preamble, \input of this
% file where the table goes, and \ref{<< layout | label >>} in the text.
\expandafter\ifx\csname @nodocument\endcsname\relax\else
\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
\def\tableofitsown{}
\fi
\begin{table}
\centering
\setlength{\abovecaptionskip}{0pt}
\setlength{\belowcaptionskip}{6pt}
\caption{<< layout.caption | tex >>}
\label{<< layout | label >>}
\sbox0{\begin{tabular}{l<< "r" * (layout.header | length - 1) >>}
\toprule
<< layout.header | map("tex") | join(" & ") >> \\
\midrule
<% for line in layout.lines -%>
<< line | map("cell") | join(" & ") >> \\
<% endfor -%>
\bottomrule
\end{tabular}}
\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi
<%- if layout.notes %>

\medskip
\begin{minipage}{\linewidth}
\footnotesize
<%- for mark, note in layout.notes %>
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


def latex(layout: Layout) -> str:
    """The LaTeX of a table, which needs booktabs and graphicx."""
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
    return environment.from_string(_FILE.lstrip("\n")).render(layout=layout)


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
    accented = (
        character.isalpha() and unicodedata.normalize("NFD", character)[0].isascii() and character < "Ā"
    )
    return character if accented or (character.isascii() and character.isprintable()) else "?"
