"""The scripts and styles inside a report."""

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup

FILES = Path(__file__).parent / "files"
SCRIPTS = (
    "third_party/uPlot-1.6.32.min.js",
    "third_party/sortable-4.1.7.min.js",
    "third_party/sortable-a11y-4.1.7.min.js",
    "report.js",
)
STYLES = ("third_party/uPlot-1.6.32.min.css", "report.css")
LICENCES = {
    "uPlot 1.6.32": "third_party/uPlot-LICENSE",
    "sortable-tablesort 4.1.7": "third_party/sortable-LICENSE",
}


def scripts() -> list[Markup]:
    return [Markup(_text(name)) for name in SCRIPTS]


def styles() -> list[Markup]:
    return [Markup(_text(name)) for name in STYLES]


def licences() -> dict[str, str]:
    return {name: _text(file) for name, file in LICENCES.items()}


def policy() -> str:
    """The content security policy: these scripts alone, and nothing from the network."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts()]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _text(name: str) -> str:
    return (FILES / name).read_text(encoding="utf-8")
