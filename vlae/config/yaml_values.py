"""Unquoted values of YAML files that mean something else on the command line: they are refused, not guessed at."""

import functools
import operator
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException

from vlae.config.overrides import parse
from vlae.config.problems import Problem, format_value

Keys = tuple[str | int, ...]
_MERGE = "tag:yaml.org,2002:merge"
_YAML_ALONE = re.compile(r"|~|[-+]?\.(inf|nan)", re.IGNORECASE)
"""Values that have one meaning in YAML and none on the command line."""
_YAML_11 = re.compile(
    r"[-+]?0[0-9_]+|[-+]?0x[0-9a-f_]+|[-+]?0b[01_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|yes|no|on|off",
    re.IGNORECASE,
)
"""Texts that only YAML 1.1, in which Hydra reads conf/, takes for a number or for true and false."""


def unclear_values(content: Any, node: yaml.Node | None) -> Iterator[Problem]:
    """The values of a sweep file that the command line reads as something else. node: ``content`` as it is written."""
    for keys, text in _plain_scalars(node):
        try:
            value = functools.reduce(operator.getitem, keys, content)
        except (LookupError, TypeError):
            continue
        if not isinstance(value, str | int | float | None) or _YAML_ALONE.fullmatch(text):
            continue
        if (other := _on_command_line(text, value)) is not None:
            yield Problem(_dotted_key(keys), _refusal(text, value, other))


def unclear_files(directories: Sequence[Path]) -> list[Problem]:
    """Values in configuration files that mean something else on the command line."""
    files = (file for directory in directories for file in sorted(directory.rglob("*.yaml")))
    return [problem for file in files for problem in _unclear_in(file, file.stat().st_mtime_ns)]


@functools.lru_cache(1024)
def _unclear_in(file: Path, changed: int) -> tuple[Problem, ...]:
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (OSError, ValueError, yaml.YAMLError):  # which Hydra says, where it reads the file
        return ()
    found = []
    for keys, text in _plain_scalars(node):
        if _YAML_11.fullmatch(text):
            refusal = _refusal(text, yaml.safe_load(text), f"the text {text!r}")
            found.append(Problem(f"{file.parent.name}/{file.name}: {_dotted_key(keys)}", refusal))
    return tuple(found)


def _plain_scalars(node: yaml.Node | None, keys: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """The unquoted values of a file with their keys; what is merged in stands in the place of its ``<<``."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _plain_scalars(value, keys if key.tag == _MERGE else (*keys, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _plain_scalars(value, (*keys, i))
    elif isinstance(node, yaml.ScalarNode) and not node.style:
        yield keys, node.value


def _dotted_key(keys: Keys) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _on_command_line(text: str, value: Any) -> str | None:
    """The value that the command line reads, in words; None: it is ``value``, which YAML reads from ``text``."""
    try:
        override = parse(f"key={text}")
    except HydraException:
        return None if isinstance(value, str) else "no value"
    if override.is_sweep_override():
        return "several values"
    read = override.value()
    if isinstance(read, str):  # as text may have spaces around it, and escapes
        return None if isinstance(value, str) else f"the text {read!r}"
    return None if type(read) is type(value) and read == value else format_value(read)


def _refusal(text: str, in_file: Any, on_command_line: str) -> str:
    number = re.sub(r"^([+-]?)0[0_]*(?=[0-9])", r"\1", text)
    words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
    clear = words.get(text.lower(), number if number != text and number.isdecimal() else None)
    if on_command_line == "several values":
        clear = "a list for one run each"
    write = f"{clear}, or '{text}' for the text" if clear else f"'{text}' for the text"
    if isinstance(in_file, str):
        return f"got {text}, a text in a file and {on_command_line} on the command line; write {write}"
    return f"got {text}, {format_value(in_file)} in YAML and {on_command_line} on the command line; write {write}"
