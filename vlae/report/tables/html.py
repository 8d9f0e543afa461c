"""A table in HTML: a part of a page, or a page that needs nothing else."""

from jinja2 import Environment
from markupsafe import Markup

from vlae.report.tables.layout import Layout
from vlae.system.streams import visible

_TABLE = """\
<table{% if sortable %} class="sortable n-last" id="table"{% endif %}>
<caption>{{ layout.caption }}</caption>
<thead>
<tr>{% for name in layout.header %}<th>{{ name or ("model" if sortable else "") }}</th>{% endfor %}</tr>
</thead>
<tbody>
{%- for line in layout.lines %}
<tr>
{%- for text in line %}<td
{%- if sortable and not loop.first %} data-sort="{{ "" if text.value is none else text.value }}"{% endif -%}
>{% if text.bold %}<b>{{ text.text }}</b>{% else %}{{ text.text }}{% endif %}
{%- if text.marks %}<sup>{{ text.marks | join(",") }}</sup>{% endif %}</td>
{%- endfor %}</tr>
{%- endfor %}
</tbody>
</table>
{%- for mark, note in layout.all_notes %}
<p>{% if mark %}<sup>{{ mark }}</sup> {% endif %}{{ note }}</p>
{%- endfor %}
"""
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ layout.caption.partition(".")[0] }}</title>
<style>
body { font-family: serif; margin: 2em; }
table { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; }
caption, p { text-align: left; max-width: 60em; padding: 0.5em 0; margin: 0; }
th { font-weight: normal; border-bottom: 1px solid; }
th, td { padding: 0.2em 1em; text-align: right; }
th:first-child, td:first-child { text-align: left; }
</style>
</head>
<body>
{{ table }}
</body>
</html>
"""


def html(layout: Layout) -> str:
    """Names are text, whatever characters they have."""
    return visible(_rendered(_PAGE, layout=layout, table=table_of(layout)))


def table_of(layout: Layout, sortable: bool = False) -> Markup:
    """The table with its notes, as a part of a page. sortable: with the figures, for a script that sorts by them."""
    return Markup(_rendered(_TABLE, layout=layout, sortable=sortable))


def _rendered(template: str, **values: object) -> str:
    return Environment(autoescape=True, keep_trailing_newline=True).from_string(template).render(**values)
