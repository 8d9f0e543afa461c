"""What goes wrong and is told to the user as it is, without a traceback."""

import errno

NO_MEMORY = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What a RuntimeError of torch says where there is too little memory."""


class UserError(Exception):
    """Told in one block, without a traceback, by the command that meets it; ``exit_status`` is the command's."""

    exit_status = 2


class OutOfMemory(UserError):
    """There is too little memory, on a GPU or in the machine."""

    exit_status = 1


def out_of_memory(error: BaseException) -> str | None:
    """One line where ``error`` says that there is too little memory, from torch or the system; else None."""
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
    """A metric became NaN or infinite: the run has failed, and says where."""

    exit_status = 1
