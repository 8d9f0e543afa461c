"""A table of runs, from run directories or Weights & Biases, to the terminal or a file."""

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vlae.cli import options
from vlae.errors import UserError

TERMINAL = "terminal"
ENDINGS = {
    "txt": TERMINAL,
    "md": "markdown",
    "tex": "latex",
    "html": "html",
    "htm": "html",
    "csv": "csv",
    "json": "json",
}
"""The format of a file by its ending."""
Cols = Annotated[str | None, typer.Option(help="Keys, comma-separated: dataset,output_dist")]
Decimals = Annotated[int, typer.Option(min=0, max=15, help="Decimals of every number.")]
Transpose = Annotated[bool, typer.Option("--transpose", help="Columns as rows.")]
FORMAT = "terminal, markdown, latex, html, csv or json; default: by the file's ending."
Format = Annotated[str | None, typer.Option("--format", help=FORMAT)]
CALIBRATION = "Coverage of 50 and 90 % regions of posteriors, on images drawn from the model."
Calibration = Annotated[bool, typer.Option("--calibration", help=CALIBRATION)]
OUT = "The file to write: .txt, .md, .tex, .html, .csv or .json."
MIRRORED = typer.Option("--from", metavar="wandb:ENTITY/PROJECT", help="Mirrored runs, without runs_dir.")
Group = Annotated[str | None, typer.Option(help="With --from: only the runs of this sweep.")]
PER_IMAGE = "With --from: compare image by image; two requests per run."
PerImage = Annotated[bool, typer.Option("--per-image", help=PER_IMAGE)]


OWN = "A YAML file with names of your own, in the order of rows and columns: 'VLAE: ours'."
OwnNames = Annotated[Path | None, typer.Option("--names", metavar="<path>", help=OWN)]
Caption = Annotated[
    str | None, typer.Option(help="The caption, in place of the one that is written for you.")
]
Label = Annotated[str | None, typer.Option(help="The label in LaTeX; default: of the sweep and the metric.")]


def table(
    names: options.Sources = None,
    rows: options.Rows = None,
    cols: Cols = None,
    metric: options.Metric = None,
    where: options.Where = "",
    decimals: Decimals = 2,
    transpose: Transpose = False,
    published: options.Published = False,
    calibration: Calibration = False,
    format: Format = None,
    out: Annotated[Path | None, options.out_option(OUT)] = None,
    source: Annotated[str | None, MIRRORED] = None,
    group: Group = None,
    per_image: PerImage = False,
    own_names: OwnNames = None,
    caption: Caption = None,
    label: Label = None,
    evaluation: options.Evaluation = None,
    runs_dir: options.RunsDir = "runs",
) -> None:
    """Print a table of runs: models by datasets, the best in bold. Cells hold mean and standard error over seeds."""
    from vlae.report.tables.captions import damage_notes
    from vlae.report.tables.formats import FORMATS, in_terminal
    from vlae.report.tables.layout import layout
    from vlae.report.tables.table import make_table
    from vlae.report.tables.wording import Wording, read_names
    from vlae.system.console import Console
    from vlae.system.files import write_output

    keys = {"rows": options.key_list("--rows", rows), "columns": options.key_list("--cols", cols)}
    format = _format(format, out, (TERMINAL, *FORMATS))
    if label is not None and format != "latex":
        raise UserError(f"--label: goes with --format latex or --out FILE.tex, got {format}")
    wording = Wording(read_names(own_names) if own_names else {}, label)
    runs = _collect(runs_dir, names, source, group, per_image, evaluation)
    found = make_table(
        runs,
        metric=metric,
        where=where,
        published=published,
        calibration=calibration,
        caption=caption,
        **keys,
    )
    for text in damage_notes(runs.left_out, found.unread) if format == "csv" else ():  # it has no notes
        print(f"vlae: {text}", file=sys.stderr)
    file = io.StringIO() if out else None
    if format == TERMINAL:
        console = Console(highlight=False, file=file)
        console.print(in_terminal(layout(found, decimals, transpose, wording), plain=not console.is_terminal))
    else:
        print(FORMATS[format](found, decimals, transpose, wording), end="", file=file)
    if out and file:
        write_output(out, file.getvalue().encode("utf-8", "backslashreplace"))
        print(out)


def _format(asked: str | None, out: Path | None, choices: tuple[str, ...]) -> str:
    """The format that was asked for, else that of the file's ending, else the terminal's."""
    from vlae.report.names import near
    from vlae.report.output_file import ending_of, refuse_unwritable

    asked = ENDINGS.get(asked or "", asked)
    if asked is None:
        return ENDINGS[ending_of(out, tuple(ENDINGS))] if out is not None else TERMINAL
    if asked not in choices:
        known = ", ".join(choices)
        raise UserError(f"--format: expected one of {known}, got {asked!r}{near(asked, choices)}")
    if out is not None:
        refuse_unwritable(out)
    return asked


def _collect(
    runs_dir: str,
    names: list[str] | None,
    source: str | None,
    group: str | None,
    per_image: bool,
    evaluation: int | None,
) -> Any:
    """The runs of a table. source: None (``runs_dir``) or ``wandb:ENTITY/PROJECT``."""
    if source is None:
        if group or per_image:
            raise UserError(
                f"{'--group' if group else '--per-image'}: goes with --from wandb:ENTITY/PROJECT; of run directories "
                "the sweep is named by itself: vlae table SWEEP"
            )
        from vlae.report.sources.run_directories import collect_runs

        return collect_runs(names or None, runs_dir, evaluation)
    if evaluation is not None:
        raise UserError("--evaluation: goes with the name of a sweep, not with --from")
    kind, _, place = source.partition(":")
    parts = place.split("/")
    if kind != "wandb" or len(parts) > 2 or not all(parts):
        raise UserError(f"--from: expected wandb:ENTITY/PROJECT or wandb:PROJECT, got {source!r}")
    if names:
        raise UserError(f"expected no name beside --from: the runs of a sweep there are --group {names[0]}")
    from vlae.report.sources.wandb import collect_mirrored_runs

    return collect_mirrored_runs(place, group, per_image=per_image)
