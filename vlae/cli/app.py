"""The ``vlae`` command: collects the commands of `vlae.cli.commands`, and turns errors into one line and a status."""

import importlib
import pkgutil
import sys
from typing import Annotated, Any

from vlae.system.interruption import Interrupted, end_in_one_line

with end_in_one_line():
    import typer

    from vlae.cli import commands
    from vlae.errors import OutOfMemory, UserError, out_of_memory
    from vlae.system.libraries import explain_import
    from vlae.system.streams import finish_printing, guard

ORDER = (
    *("launch", "show", "status", "table", "metrics", "figure", "compare", "logs"),
    *("cancel", "sync", "report", "evaluate", "sample", "download"),
)
"""The order of the commands in the help; others follow by name."""

USAGE_ERROR: Any = typer.BadParameter.__base__
"""The base of all errors of a command line. typer exports only classes below it, and may have its own copy of click."""

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Launch runs and sweeps, show them, evaluate and sample, download datasets.",
)


with end_in_one_line():
    _found = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    for _name in [*ORDER, *sorted(_found.difference(ORDER))]:
        _module = importlib.import_module(f"{commands.__name__}.{_name}")
        app.command(_name, **getattr(_module, "SETTINGS", {}))(getattr(_module, _name))


def _print_version(asked: bool) -> bool:
    if asked:
        from vlae.cli.options import version_line

        print(version_line())
        raise typer.Exit
    return asked


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show version and code.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script: an error that a user can fix is one message, not a traceback."""
    guard()
    sys.exit(finish_printing(_status()))


def _status() -> int:
    """Execute the command; its exit status.

    click's standalone mode would print the usage and several lines for each error, and does not know ours.
    """
    try:
        status = app(sys.argv[1:] or ["--help"], prog_name="vlae", standalone_mode=False) or 0
        text = "stopped" if status == 130 else ""  # click ends silently at a Ctrl-C
    except USAGE_ERROR as error:
        said = error.format_message().rstrip(".")
        command = error.ctx.command_path if error.ctx else "vlae"
        text, status = f"{said[0].lower()}{said[1:]} (see {command} --help)", error.exit_code
    except UserError as error:
        text, status = str(error), error.exit_status
    except ImportError as error:
        text, status = explain_import(error.name or "a library", error), 2
    except Interrupted as interrupted:
        text, status = f"{interrupted}; nothing was written", 128 + interrupted.number
    except SystemExit as error:  # from --show-completion and vlae launch
        return error.code if isinstance(error.code, int) else 0
    except typer.Abort:
        text, status = "stopped", 130
    except Exception as error:
        if (text := out_of_memory(error)) is None:
            raise
        status = OutOfMemory.exit_status
    if text:
        print(f"vlae: {text}", file=sys.stderr)
    return status
