"""A figure of runs."""

from pathlib import Path
from typing import Annotated

import typer

from vlae.cli.options import RunsDir, keys_of, out_option

SETTINGS = {"short_help": "Draw curves, likelihoods, costs, posteriors."}


def figure(
    name: Annotated[str, typer.Argument(metavar="SWEEP|PREFIX", help="A sweep, or an id prefix.")],
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="curves, likelihood_vs_updates, cost; of trained models covariance, updates, estimators, latent_path.",
        ),
    ],
    out: Annotated[Path, out_option("The file to write: .pdf, .svg or .png.")],
    metric: Annotated[str | None, typer.Option(help="A metric (see vlae metrics).")] = None,
    rows: Annotated[
        str | None, typer.Option(help="Keys, one line per value, comma-separated: model,optimizer.lr")
    ] = None,
    where: Annotated[str, typer.Option(help="Which runs: 'seed<3 and model in vae,vlae'")] = "",
    published: Annotated[bool, typer.Option("--published", help="Published numbers beside ours.")] = False,
    images: Annotated[int | None, typer.Option(min=1, help="How many test images to look at.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Largest number of samples per image.")] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Draw runs: learning curves, likelihoods over updates, costs, and what inference does in trained models."""
    from vlae.cli.figure import draw_figure

    draw_figure(
        runs_dir, name, kind, out, metric=metric, rows=keys_of("--rows", rows), where=where, published=published,
        images=images, samples=samples,
    )  # fmt: skip
