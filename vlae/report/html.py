"""A table as an HTML page that needs nothing else."""

from jinja2 import Environment

from vlae.report.layout import Layout

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ told.caption.partition(".")[0] }}</title>
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
<table>
<caption>{{ told.caption }}</caption>
<thead>
<tr>{% for name in told.header %}<th>{{ name }}</th>{% endfor %}</tr>
</thead>
<tbody>
{%- for line in told.lines %}
<tr>
{%- for text in line %}<td>{% if text.bold %}<b>{{ text.text }}</b>{% else %}{{ text.text }}{% endif %}
{%- if text.marks %}<sup>{{ text.marks | join(",") }}</sup>{% endif %}</td>
{%- endfor %}</tr>
{%- endfor %}
</tbody>
</table>
{%- for mark, note in told.notes %}
<p>{% if mark %}<sup>{{ mark }}</sup> {% endif %}{{ note }}</p>
{%- endfor %}
</body>
</html>
"""


def html(told: Layout) -> str:
    """Names are text, whatever characters they have."""
    page = Environment(autoescape=True, keep_trailing_newline=True).from_string(_PAGE)
    return page.render(told=told)
