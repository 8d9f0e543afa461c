"""Errors that are reported to the user without a traceback."""

import errno

NO_MEMORY = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Texts of torch's RuntimeErrors when memory is exhausted."""


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
