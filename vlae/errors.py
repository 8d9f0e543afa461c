"""Errors that are reported to the user without a traceback."""

import errno
import importlib
import importlib.util

NO_MEMORY = (
    *("DefaultCPUAllocator", "can't allocate memory"),
    *("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
)
"""Texts of torch's RuntimeErrors when memory is exhausted."""
IMPORTED = ("numpy", "torch", "torchvision.utils")  # by every run
PRESENT = ("scipy", "zuko")  # by some runs; importing them takes a second


class UserError(Exception):
    """Printed by a command in one block, without a traceback; ``exit_status`` is the command's."""

    exit_status = 2


class OutOfMemory(UserError):
    """There is too little memory, on a GPU or in the machine."""

    exit_status = 1


def out_of_memory(error: BaseException) -> str | None:
    """One line if ``error``, from torch or the system, means that memory is exhausted; else None."""
    text = str(error)
    is_torchs = type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and any(said in text for said in NO_MEMORY)
    )
    is_systems = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if not (is_torchs or is_systems or isinstance(error, MemoryError)):
        return None
    first = next(iter(text.splitlines()), "").strip() or type(error).__name__
    return f"out of memory: {first}"


class NonFiniteError(UserError, RuntimeError):
    """A metric became NaN or infinite: the run fails and names it."""

    exit_status = 1


def check_libraries() -> None:
    """UserError: a library is missing or does not fit the others; one line that says which, and what to do."""
    for name in (*PRESENT, *IMPORTED):
        try:
            if name in IMPORTED:
                importlib.import_module(name)
            elif importlib.util.find_spec(name) is None:
                raise ModuleNotFoundError("it is not installed")
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
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
