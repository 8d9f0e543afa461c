"""Write the keys of conf/config.yaml, conf/evaluate/default.yaml and docs/keys.md from the schema and from conf/.

``python docs/write_keys.py`` does it in a checkout; a test compares the files with what it would write.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from vlae.config.help import documented_keys, header
from vlae.config.run_id import MISSING, get
from vlae.config.schema import FIXED_SECTIONS, PLUGINS, Config, extras, fields
from vlae.system.locations import CONF

CONFIG = CONF / "config.yaml"
EVALUATE = CONF / "evaluate" / "default.yaml"
KEYS = Path(__file__).with_name("keys.md")
WRITTEN = "# The keys below are written by `python docs/write_keys.py` from vlae/config/schema.py.\n"
GROUPS = {
    "model": "How a model computes q(z | x).",
    "dataset": "Images, their splits and their preprocessing. Keys of `sizes` are only defaults of other keys.",
    "output_dist": "p(x | z).",
    "optimizer": "A class of torch.optim and its arguments.",
    "schedule": "A scheduler of torch.optim.lr_scheduler, or of vlae.training.learning_rate, and its arguments.",
    "hydra/launcher": "Where the runs of a sweep are executed; the keys are written `hydra.launcher.KEY=VALUE`.",
}
HEADING = """\
# Keys

With this page you can set every key of a run: `python launch.py KEY=VALUE ...`. It lists each key with its default, the
values that it takes, and whether it is part of the run's id: a run with another value of such a key is another run.
`python launch.py --help` shows the same keys with their values in a command; conf/ holds them as files.

This page is written by `python docs/write_keys.py` from `vlae/config/schema.py` and `conf/`.
"""


def main() -> None:
    """Write the files and print their paths."""
    for file, text in ((CONFIG, config_yaml()), (EVALUATE, evaluate_yaml()), (KEYS, keys_page())):
        file.write_text(text, encoding="utf-8")
        print(file)


def config_yaml() -> str:
    """conf/config.yaml with the keys of the schema below what it says of groups and of Hydra."""
    opening = CONFIG.read_text(encoding="utf-8").partition(WRITTEN)[0]
    return opening + WRITTEN + "".join(f"{line}\n" for line in _config_lines())


def evaluate_yaml() -> str:
    """conf/evaluate/default.yaml with the keys of the schema below what it says of itself."""
    opening = EVALUATE.read_text(encoding="utf-8").partition(WRITTEN)[0]
    lines = (
        line for key, field in fields("evaluate") for line in _key_lines(key.partition(".")[2], field, key)
    )
    return opening + WRITTEN + "\n" + "".join(f"{line}\n" for line in lines)


def _config_lines() -> Iterator[str]:
    for key, field in _settable_keys():
        if key.partition(".")[0] == "evaluate":  # a group, whose choice `default` has them
            continue
        if key in FIXED_SECTIONS and "." not in key:
            yield ""
        yield from _key_lines(key, field, key)
        if key == "tracker.artifacts":
            yield ""


def _key_lines(place: str, field: FieldInfo, key: str) -> Iterator[str]:
    """The lines of one key. place: its dotted name in the file."""
    indent = "  " * place.count(".")
    if field.description:
        yield from (f"{indent}# {line}" for line in textwrap.wrap(field.description, 116 - len(indent)))
    name = place.rpartition(".")[2]
    yield f"{indent}{name}:" if key in FIXED_SECTIONS else f"{indent}{name}: {default_text(field)}"


def _settable_keys() -> Iterator[tuple[str, FieldInfo]]:
    """The keys that a person can set, sections among them, without those of plug-ins."""
    return ((key, field) for key, field in fields() if key not in (*PLUGINS, "schema_version"))


def default_text(field: FieldInfo) -> str:
    """The default of a key as YAML."""
    return f"${{{source}}}" if (source := extras(field).get("follows")) else _yaml_text(field.default)


def _yaml_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


def keys_page() -> str:
    """docs/keys.md."""
    groups = (line for group in GROUPS for line in _group_table(group))
    return "\n".join([HEADING, *_section_tables(), *groups])


def _section_tables() -> Iterator[str]:
    for section in ("", "trainer", "evaluate", "tracker"):
        text = Config.model_fields[section].description if section else "of every run"
        yield f"## {section or 'Top level'}: {text}\n"
        if section == "evaluate":
            yield from [*_choices(section), ""]
        yield from _table_head("key", "default", "values", "id", "meaning")
        for key, field in fields(section) if section else _settable_keys():
            if section or not ("." in key or key in FIXED_SECTIONS):
                yield _table_row(*_cells_of(key, field))
        yield ""
        if section == "evaluate":
            yield from [*_differences(section), ""]


def _choices(group: str) -> Iterator[str]:
    """A list of the choices of a group, each with what its file says of it."""
    files = sorted((CONF / group).glob("*.yaml"))
    yield from (f"- `{group}={file.stem}`: {header(file)}" for file in files)


def _differences(group: str) -> Iterator[str]:
    """The keys in which the choices of a group differ from its default, with the value in each."""
    files = [file for file in sorted((CONF / group).glob("*.yaml")) if file.stem != "default"]
    contents = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    yield from _table_head("key", "`default`", *(f"`{file.stem}`" for file in files))
    for key, field in fields(group):
        values = [get(content, key.partition(".")[2]) for content in contents]
        if key not in FIXED_SECTIONS and any(value is not MISSING for value in values):
            texts = ("" if value is MISSING else f"`{_yaml_text(value)}`" for value in values)
            yield _table_row(f"`{key}`", f"`{default_text(field)}`", *texts)


def _cells_of(key: str, field: FieldInfo) -> tuple[str | None, ...]:
    if key in FIXED_SECTIONS:
        return f"`{key}`", "", "section", "", field.description
    own = not extras(field)["operational"] and not key.startswith("tracker.")
    values = _range_of(TypeAdapter(field.rebuild_annotation()).json_schema())
    return f"`{key}`", f"`{default_text(field)}`", values, "yes" if own else "", field.description


def _range_of(schema: Mapping[str, Any]) -> str:
    """The values that a key takes: ``whole number, 1 or more, or null``."""
    if branches := schema.get("anyOf"):
        return ", or ".join(_range_of(branch) for branch in branches)
    if choices := schema.get("enum"):
        return ", ".join(f"`{choice}`" for choice in choices)
    if schema["type"] == "array":
        return f"list of: {_range_of(schema['items'])}"
    bounds = {"minimum": "{} or more", "maximum": "{} or less", "exclusiveMinimum": "more than {}"}
    said = [text.format(_yaml_text(schema[name])) for name, text in bounds.items() if name in schema]
    words = {"integer": "whole number", "boolean": "true or false", "string": "text"}
    return ", ".join([words.get(schema["type"], str(schema["type"])), *said])


def _group_table(group: str) -> Iterator[str]:
    """The choices of a group, and their keys: one row for all choices that explain a key alike."""
    files = sorted((CONF / group).glob("*.yaml"))
    yield f"## {group}\n\n{GROUPS[group]}\n"
    yield from [*_choices(group), ""]
    yield from _table_head("key", "value", "meaning")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for file in files:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        for key, comment in documented_keys(file).items():
            value = get(content, key)
            if not re.match(r"(name|sizes|defaults)\b|_", key) and not isinstance(value, dict):
                rows.setdefault((key, comment), {})[file.stem] = _yaml_text(value)
    order = list(dict.fromkeys(key for key, _ in rows))
    for (key, comment), by_choice in sorted(rows.items(), key=lambda row: order.index(row[0][0])):
        yield _table_row(f"`{group.replace('/', '.')}.{key}`", _by_choice(by_choice, len(files)), comment)
    yield ""


def _by_choice(found: Mapping[str, str], choices: int) -> str:
    """One value with the choices that have it, or each choice with its own."""
    if len(set(found.values())) == 1:
        value = f"`{next(iter(found.values()))}`"
        return value if len(found) == choices else f"{value} ({', '.join(found)})"
    return ", ".join(f"{choice}: `{value}`" for choice, value in found.items())


def _table_head(*titles: str) -> list[str]:
    return [_table_row(*titles), "|" + "---|" * len(titles)]


def _table_row(*cells: str | None) -> str:
    return "| " + " | ".join((cell or "").replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main()
