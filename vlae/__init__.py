"""Train, evaluate and compare latent-variable models.

The functions here are the public face of the package. What is below them, ``vlae.models.vae`` for one, is private and
may move, except for `vlae.errors`, whose UserError every function here raises for bad input, and what docs/ names for
models and datasets of your own.

Axes of tensors, everywhere: ``samples batch latent hidden pixels``; pixels = channels x height x width. Log-likelihoods
and ELBOs are in nats per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

# both are folders of the package too: once imported, they do not replace the functions of their names below
import vlae.report
import vlae.runs  # noqa: F401

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from vlae.experiment.trained_model import TrainedModel

__all__ = ["load", "plot", "report", "run", "runs", "table"]


def run(overrides: Sequence[str] = (), *, quiet: bool = False) -> dict[str, Any]:
    """Do what ``python launch.py <overrides>`` does for one run, and return the contents of results.json.

    Choices of your own, DIR/model/mine.yaml: ``"hydra.searchpath=[DIR]"``.
    Errors: bad input raises ``vlae.errors.UserError``; a signal raises
    ``vlae.system.interruption.Interrupted`` after the checkpoint is written, and the same call resumes from there.

    >>> few = ["evaluate.num_samples=10", "evaluate.num_images=20", "evaluate.num_gap_images=0"]
    >>> results = vlae.run(["model=vae", "trainer.epochs=1", *few], quiet=True)
    >>> results["run_id"][:22], "elbo" in results["test"]
    ('vae-digits-gaussian-s0', True)
    """
    from vlae.experiment.single_run import run_overrides

    return run_overrides(overrides, quiet=quiet)


def load(run: str, runs_dir: str = "runs", device: str = "cpu") -> TrainedModel:
    """The trained model of a run: a directory, an id, or an unambiguous id prefix.

    It has the ``model``, its ``decoder``, ``posterior(x)`` for x [batch, pixels] in model space, ``reconstruct(x)`` and
    ``sample(num)``, both of which return images in [0, 1] as [batch, channels, height, width].
    Errors: ``vlae.errors.UserError`` if there is no such run, or if it has no checkpoint.

    >>> vlae.load("vae").sample(4).shape
    torch.Size([4, 1, 8, 8])
    """
    from vlae.experiment.load import load

    return load(run, runs_dir, device)


def runs(
    name: str | Sequence[str] | None = None,
    runs_dir: str | PathLike[str] = "runs",
    *,
    evaluation: int | None = None,
) -> DataFrame:
    """All runs of a sweep, of an id prefix or, without a name, of ``runs_dir``: one row per run, one column per key.

    name: also several of them, or paths of directories of runs.

    The columns are the id, sweep, label and state, the settings (``model.name``, ``seed``, ...), and the
    metrics of results.json (``test.elbo``, ``cost.train_seconds``, ...; `vlae metrics` lists them with their units).
    What a run does not have is missing. evaluation: of a sweep that was scored several times, the number of the launch,
    from 1; None: the latest.
    Errors: ``vlae.errors.UserError`` if the name means no runs.

    >>> vlae.runs("vae")[["model.name", "seed", "state"]]
      model.name  seed state
    0        vae     0  done
    """
    from vlae.report.sources.run_directories import collect_runs

    return collect_runs(name, runs_dir, evaluation).frame()


def table(
    name: str | Sequence[str] | None = None,
    runs_dir: str | PathLike[str] = "runs",
    *,
    metric: str | None = None,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    where: str = "",
    published: bool = False,
    calibration: bool = False,
    decimals: int = 2,
    format: str = "markdown",
    names: Mapping[str, str] | None = None,
    caption: str | None = None,
    label: str | None = None,
    evaluation: int | None = None,
) -> str:
    """The table of a metric of these runs: mean and standard error over seeds, the best in bold. `vlae table`.

    rows, columns: keys such as ``["model", "optimizer.lr"]``. where: which runs, ``"seed<3 and model in vae,vlae"``.
    published: with published numbers beside ours. calibration: with the coverage of posteriors.
    format: ``markdown``, ``latex``, ``html``, ``csv`` or ``json``. evaluation: see `runs`.
    names: of your own for rows, columns and values, in this order: ``{"VLAE": "ours"}``. label: for LaTeX.
    Errors: ``vlae.errors.UserError`` if there is no such metric, key or format, or if the name means no runs.

    >>> "| VAE |" in vlae.table("vae", rows=["model"], metric="test.elbo")
    True
    """
    from vlae.report.sources.run_directories import collect_runs
    from vlae.report.tables.formats import table_text

    asked = {"metric": metric, "rows": rows, "columns": columns, "where": where}
    asked |= {"published": published, "calibration": calibration, "caption": caption}
    return table_text(collect_runs(name, runs_dir, evaluation), format, decimals, names or {}, label, **asked)


def plot(
    kind: str,
    name: str | Sequence[str] | None = None,
    runs_dir: str | PathLike[str] = "runs",
    *,
    metric: str | None = None,
    rows: Sequence[str] | None = None,
    where: str = "",
    published: bool = False,
    evaluation: int | None = None,
) -> Figure:
    """The figure of this kind of these runs, as `vlae figure` draws it: save it by ``figure.savefig("curves.pdf")``.

    kind: ``curves``, ``likelihood_vs_updates``, ``cost``, ``calibration``; of trained models ``covariance``,
    ``updates``, ``estimators``, ``latent_path``. The other arguments are those of `table`.
    Errors: ``vlae.errors.UserError`` if there is no such kind, or if these runs cannot be drawn so.

    >>> vlae.plot("curves", "vae").axes[0].get_xlabel()
    'Epoch'
    """
    from vlae.report.plots.draw import draw
    from vlae.report.sources.run_directories import collect_runs

    runs = collect_runs(name, runs_dir, evaluation)
    return draw(kind, runs, metric=metric, rows=rows, where=where, published=published)


def report(
    name: str | Sequence[str] | None = None,
    out: str | PathLike[str] = "report.html",
    runs_dir: str | PathLike[str] = "runs",
    *,
    evaluation: int | None = None,
) -> Path:
    """Write the report of these runs, one HTML file that needs no network, and return its path.

    evaluation: see `runs`.
    Errors: ``vlae.errors.UserError`` if the name means no runs, or if the file cannot be written.

    >>> vlae.report("vae").stat().st_size > 10_000
    True
    """
    from vlae.report.html.page import write_report

    write_report(name, runs_dir, Path(out), evaluation)
    return Path(out)
