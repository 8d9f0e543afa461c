"""``vlae launch``: what ``python launch.py`` does, without a checkout."""

import re
import sys
from typing import Annotated, Any

import typer

PROGRAM = "vlae launch"
SETTINGS = {"add_help_option": False, "context_settings": {"ignore_unknown_options": True}}


def _candidates(ctx: Any, incomplete: str) -> list[str]:
    """Completions of the word that is being typed. To bash, the = in it is a separate word."""
    from vlae.cli.completion import candidates

    words = [PROGRAM, *(ctx.params.get("arguments") or ()), incomplete]
    line = re.sub(r" ?= ?", "=", " ".join(words))
    known = len(line.rpartition(" ")[2]) - len(incomplete)
    return [candidate[known:] for candidate in candidates(line)]


def launch(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="See vlae launch --help.", autocompletion=_candidates),
    ] = None,
) -> None:
    """Train, evaluate and record one model, or all of a sweep."""
    from vlae.cli.hydra_main import main

    sys.argv = [PROGRAM, *sys.argv[2:]]  # unchanged: click drops a --
    raise SystemExit(main(PROGRAM))
