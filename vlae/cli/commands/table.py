"""A table of runs."""

from pathlib import Path
from typing import Annotated

import typer

from vlae.cli.options import RunsDir, keys_of, out_option

SETTINGS = {"short_help": "Print a table of runs: models by datasets, the best in bold."}


def table(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[SWEEP|PREFIX]", help="A sweep, or an id prefix; default: all runs."),
    ] = None,
    rows: Annotated[str | None, typer.Option(help="Keys, comma-separated: model,T,optimizer.lr")] = None,
    cols: Annotated[str | None, typer.Option(help="Keys, comma-separated: dataset,output_dist")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="A metric: test.elbo, test.log_likelihood.own.mean, ... (see vlae metrics)."),
    ] = None,
    where: Annotated[str, typer.Option(help="Which runs: 'seed<3 and model in vae,vlae'")] = "",
    decimals: Annotated[int, typer.Option(min=0, max=15, help="Of every number.")] = 2,
    transpose: Annotated[bool, typer.Option("--transpose", help="Columns as rows.")] = False,
    published: Annotated[bool, typer.Option("--published", help="Published numbers beside ours.")] = False,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="terminal, markdown, latex, html, csv or json; default: by the file's ending."
        ),
    ] = None,
    out: Annotated[
        Path | None, out_option("The file to write: .txt, .md, .tex, .html, .csv or .json.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="wandb:ENTITY/PROJECT", help="Mirrored runs, without runs_dir."),
    ] = None,
    group: Annotated[str | None, typer.Option(help="With --from: only the runs of this sweep.")] = None,
    per_image: Annotated[
        bool,
        typer.Option("--per-image", help="With --from: compare image by image; two requests per run."),
    ] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Print a table of runs: models by datasets, mean and standard error over seeds, the best in bold."""
    from vlae.cli.table import print_table

    print_table(
        runs_dir, name, format, out, decimals=decimals, transpose=transpose,
        metric=metric, rows=keys_of("--rows", rows), columns=keys_of("--cols", cols), where=where, literature=published,
        source=source, group=group, per_image=per_image,
    )  # fmt: skip
