"""Names of one's own for the rows and columns of a table, and their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vlae.config.problems import format_value
from vlae.errors import UserError
from vlae.report.names import Values, group_name, near_or_some, spelled
from vlae.report.tables.latex import tex

EXPECTED = "expected a text, or text: and latex:"


@dataclass(frozen=True)
class Name:
    """The name of a row, a column or a value."""

    text: str
    latex: str | None = None  # its source in LaTeX; None: that of the text


@dataclass(frozen=True)
class Wording:
    """Names by those that a table has without them, in the order of its rows and columns, and a label for LaTeX.

    >>> own = Wording({"VLAE": Name("ours"), "VAE": Name("VAE", "VAE~[1]")})
    >>> own.name(["model.name", "T"], ("vlae", 4)), own.name(["model.name"], ("vae",)).latex
    (Name(text='ours, T = 4', latex=None), 'VAE~[1]')
    """

    names: Mapping[str, Name] = field(default_factory=dict)
    label: str | None = None

    def name(self, keys: Sequence[str], values: Values) -> Name:
        """The name of a row or column: one of its own, else its parts with those of their own."""
        whole = group_name(keys, values)
        if whole in self.names:
            return self.names[whole]
        own = [self.names.get(part, Name(part)) for part in spelled(keys, values)]
        if not own:
            return Name(whole)
        latex = None
        if any(name.latex for name in own):
            latex = ", ".join(name.latex or tex(name.text) for name in own)
        return Name(", ".join(name.text for name in own), latex)

    def in_order(self, keys: Sequence[str], groups: Sequence[Values]) -> list[Values]:
        """Rows or columns in the order of the names, then the others as they are."""
        order = {name: place for place, name in enumerate(self.names)}

        def place(values: Values) -> int:
            known = (order[name] for name in _names_of(keys, values) if name in order)
            return min(known, default=len(order))

        return sorted(groups, key=place)

    def check(self, *sides: tuple[Sequence[str], Sequence[Values]]) -> None:
        """UserError: a name is that of no row, column or value. sides: the keys of rows and of columns, and these."""
        known = dict.fromkeys(
            name for keys, every in sides for values in every for name in _names_of(keys, values)
        )
        if wrong := [name for name in self.names if name not in known]:
            raise UserError(f"--names: no row or column has {wrong[0]!r}{near_or_some(wrong[0], [*known])}")


PLAIN = Wording()
"""No names of one's own."""


def _names_of(keys: Sequence[str], values: Values) -> list[str]:
    """The names that a row or column has by itself: the whole, and those of its values."""
    parts = spelled(keys, values)
    return [group_name(keys, values), *parts] if parts else []


def read_names(file: Path) -> dict[str, Name]:
    """The names in a YAML file: ``VLAE: ours``, or ``VLAE: {text: ours, latex: "\\\\textsc{ours}"}``.

    UserError: it cannot be read, or holds something else.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--names: cannot read {file}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--names: {file} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"--names: {file}: expected lines NAME: OWN NAME, got {format_value(content)}")
    return {str(name): _name(file, name, own) for name, own in content.items()}


def _name(file: Path, name: Any, own: Any) -> Name:
    given = {"text": own} if isinstance(own, str) else own
    texts = isinstance(given, dict) and all(isinstance(value, str) for value in given.values())
    if not texts or not {"text"} <= given.keys() <= {"text", "latex"}:
        raise UserError(f"--names: {file}: {name}: {EXPECTED}, got {format_value(own)}")
    return Name(**given)
