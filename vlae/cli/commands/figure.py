"""A figure of runs, and its caption beside it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vlae.cli.options import (
    SEVERAL,
    Evaluation,
    Metric,
    Published,
    Rows,
    RunsDir,
    Where,
    key_list,
    out_option,
)

FORMATS = ("pdf", "svg", "png")


def figure(
    names: Annotated[list[str], typer.Argument(metavar="SWEEP|PREFIX...", help=f"{SEVERAL}.")],
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="curves, likelihood_vs_updates, cost, calibration; "
            "of trained models covariance, updates, estimators, latent_path.",
        ),
    ],
    out: Annotated[Path, out_option("The file to write: .pdf, .svg or .png.", *FORMATS)],
    metric: Metric = None,
    rows: Rows = None,
    where: Where = "",
    published: Published = False,
    images: Annotated[int | None, typer.Option(min=1, help="How many test images to look at.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Largest number of samples per image.")] = None,
    evaluation: Evaluation = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Draw curves, likelihoods, costs, posteriors.

    Figures show learning curves, likelihoods over updates, costs, and what inference does in trained models.
    """
    from vlae.report.plots.draw import draw
    from vlae.report.sources.run_directories import collect_runs

    keys = key_list("--rows", rows)
    figure = draw(
        kind, collect_runs(names, runs_dir, evaluation), metric=metric, rows=keys, where=where, published=published,
        images=images, samples=samples, warn=warn,
    )  # fmt: skip
    write_figure(figure, out)


def write_figure(figure: Any, out: Path) -> None:
    """The picture, and beside it its caption for a paper: ``curves.pdf`` and ``curves.caption.tex``."""
    from vlae.report.plots.frame import file_content
    from vlae.report.tables.formats import comment, tex
    from vlae.system.files import write_output

    caption = out.with_suffix(".caption.tex")
    lines = [comment(figure.provenance), f"In a paper: \\caption{{\\protect\\input{{{caption.stem}}}}}"]
    text = "".join(f"% {line}\n" for line in lines) + f"{tex(figure.full_caption)}%\n"
    write_output(out, file_content(figure, out.suffix.lower()[1:]))
    write_output(caption, text.encode())
    print(out)


def warn(text: str) -> None:
    """Print a warning, apart from the output of the command."""
    print(f"vlae: {text}", file=sys.stderr)
