"""The examples in docstrings print what they say."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import vlae

PACKAGE = Path(vlae.__file__).parent
FACE = PACKAGE / "__init__.py"  # whose examples need a run: tests/test_python_face.py
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != FACE and ">>> " in file.read_text()]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_every_docstring_example_is_true(file):
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    runner, parser = doctest.DocTestRunner(optionflags=FLAGS), doctest.DocTestParser()
    report: list[str] = []
    # read from the source: a decorated function hides its module from doctest's own search
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
            text := ast.get_docstring(node)
        ):
            name = getattr(node, "name", module.__name__)
            example = parser.get_doctest(text, dict(vars(module)), name, str(file), None)
            runner.run(example, out=report.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(report)
