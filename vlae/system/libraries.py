"""Checks that the numerical libraries can be imported, before a run is claimed or a sweep is queued."""

import importlib
import importlib.util

from vlae.errors import UserError

IMPORTED = ("numpy", "torch", "torchvision.utils")  # by every run
PRESENT = ("scipy", "zuko")  # by some runs; importing them takes a second


def check_libraries() -> None:
    """UserError: a library is missing or does not fit the others; one line that says which, and what to do."""
    for name in PRESENT:
        if importlib.util.find_spec(name) is None:
            raise UserError(explain_import(name, ModuleNotFoundError("it is not installed")))
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except (
            ImportError,
            OSError,
            RuntimeError,
            AttributeError,
        ) as error:  # missing, or built for another one
            raise UserError(explain_import(name, error)) from error


def explain_import(name: str, error: Exception) -> str:
    """An import that failed, in one line."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    library = name.partition(".")[0]
    if library in ("torch", "torchvision"):
        todo = "install both for each other: pip install torch torchvision (docs/troubleshooting.md)"
    else:
        todo = "install vlae again (in a checkout: pip install -e .)"
    return f"{library} cannot be imported ({said}); {todo}"
