"""A table for LaTeX with booktabs: a file that compiles by itself, and that a paper takes in by \\input."""

from jinja2 import Environment

from vlae.report.layout import Layout, Text

_FILE = r"""
% Compiles by itself, and in a paper: \usepackage{booktabs} in its preamble, and \input of this file
% where the table shall be.
\expandafter\ifx\csname @nodocument\endcsname\relax\else
\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\begin{document}
\def\tableofitsown{}
\fi
\begin{table}
\centering
\caption{<< told.caption | tex >>.}
\begin{tabular}{l<< "r" * (told.header | length - 1) >>}
\toprule
<< told.header | map("tex") | join(" & ") >> \\
\midrule
<% for line in told.lines -%>
<< line | map("cell") | join(" & ") >> \\
<% endfor -%>
\bottomrule
\end{tabular}
<%- for mark, note in told.notes %>
\par\smallskip{\footnotesize <% if mark %>\textsuperscript{<< mark | tex >>}~<% endif %><< note | tex >>.}
<%- endfor %>
\end{table}
\ifdefined\tableofitsown\expandafter\enddocument\fi
"""
_SPELLED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "†": r"\dag{}",
    "–": "--",
    "-": "-",
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
    environment.filters |= {"tex": tex, "cell": _cell}
    return environment.from_string(_FILE.lstrip("\n")).render(told=told)


def _cell(text: Text) -> str:
    marks = rf"\textsuperscript{{{tex(','.join(text.marks))}}}" if text.marks else ""
    return (rf"\textbf{{{tex(text.text)}}}" if text.bold else tex(text.text)) + marks


def tex(text: str) -> str:
    """What LaTeX prints as this text."""
    return "".join(_SPELLED.get(character, character) for character in text)
