"""The ``vlae`` command: what can be done with runs and datasets besides launching."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from vlae.system.interruption import Interrupted, stopped_in_one_line

with stopped_in_one_line():
    import typer

    from vlae.cli.launch import launch
    from vlae.config.installation import check_libraries, explained
    from vlae.errors import OutOfMemory, UserError, out_of_memory
    from vlae.runs.directory import RunDirectory, find
    from vlae.system.files import expanded
    from vlae.system.streams import cannot_print, guard, printed

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Launch runs and sweeps, look at them, evaluate and sample, fetch datasets.",
)

_UsageError: Any = typer.BadParameter.__mro__[1]
"""click's, which typer has no name for: its own copy, or that which is installed, by its version."""

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run directory, a run id, or the beginning of one.")
]


def _path(option: str) -> Callable[[str], str]:
    """Reads the path of an option, with ~ and environment variables replaced."""

    def read(text: str) -> str:
        if option == "--runs-dir" and not text:
            raise UserError(f"{option}: expected a directory, got ''")
        try:
            return expanded(text)
        except ValueError as error:
            raise UserError(f"{option}: {error}") from error

    return read


RunsDir = Annotated[
    str, typer.Option(parser=_path("--runs-dir"), metavar="<path>", help="Where run directories are.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def _file(name: str | Path) -> Path:
    """UserError: it is empty, which a Path takes for the directory that it is in."""
    if name == "":
        raise UserError("--out: expected a file, came ''")
    return Path(_path("--out")(str(name)))


def _out(text: str) -> Any:
    return typer.Option("--out", parser=_file, metavar="<path>", help=text)


def _tell_version(asked: bool) -> bool:
    if asked:
        from vlae.cli.version import version_line

        print(version_line())
        raise typer.Exit
    return asked


def _say(text: str) -> None:
    print(text, flush=True)


def _listed(option: str, text: str | None) -> list[str] | None:
    """The keys of an option. UserError: it is given, and has none."""
    if text is None:
        return None
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        raise UserError(f"{option}: expected a key or several, by commas, came {text!r}")
    return keys


app.command(add_help_option=False, context_settings={"ignore_unknown_options": True})(launch)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show version and code.")
    ] = False,
) -> None:
    pass


@app.command()
def show(run: Run, runs_dir: RunsDir = "runs") -> None:
    """Show a run: its state, progress and metrics."""
    from vlae.experiment.summary import status_table, summary
    from vlae.system.console import Console

    directory = find(runs_dir, run)
    results, console = directory.results(), Console(highlight=False)
    console.print(
        summary(results, directory.path) if results else status_table(directory.status(), directory.path)
    )
    for place in sorted(directory.path.glob("evaluations/*.json")):
        console.print(f"evaluated again: {place}", markup=False)


@app.command(short_help="Show the state of each run, why, and where.")
def status(
    name: Annotated[
        str | None, typer.Argument(metavar="[SWEEP|PREFIX]", help="A sweep, or how ids of runs begin.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every run, however many they are.")] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Show what is true of each run: queued, running, done, interrupted or failed, why, and where.

    Runs that ask for attention come first.
    """
    import time

    from rich.live import Live

    from vlae.launching.run_state import Observer
    from vlae.launching.status_table import ROWS, chosen, states_of, view
    from vlae.system.console import standard_output

    def look(most: int | None = None) -> tuple[Any, float | None]:
        """What there is to see, and after how many seconds it is worth another look."""
        title, labels = chosen(runs_dir, name)
        observer = Observer(runs_dir)
        states = states_of(runs_dir, list(labels), observer)
        goes_on = any(state.state in ("queued", "running") for state in states)
        pause = (15.0 if observer.asks_slurm else 2.0) if goes_on else None
        return view(
            title, labels, states, observer.warning, every=every and most is None, most=most or ROWS
        ), pause

    seen, pause = look()
    console = standard_output()
    if watch and console.is_terminal and pause is not None:
        # on a screen of its own: what is taller than the terminal would be left behind at each look
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while pause is not None:
                seen, pause = look(min(ROWS, max(3, console.height - 8)))
                live.update(seen, refresh=True)
                time.sleep(pause or 0)
        seen, _ = look()
    console.print(seen)


@app.command(short_help="Print a table of runs: models by datasets, the best in bold.")
def table(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[SWEEP|PREFIX]", help="A sweep, or how ids of runs begin; default: all runs."
        ),
    ] = None,
    rows: Annotated[str | None, typer.Option(help="Keys, by commas: model,T,optimizer.lr")] = None,
    cols: Annotated[str | None, typer.Option(help="Keys, by commas: dataset,output_dist")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="A metric: test.elbo, test.log_likelihood.own.mean, ... (see vlae metrics)."),
    ] = None,
    where: Annotated[str, typer.Option(help="Which runs: 'seed<3 and model in vae,vlae'")] = "",
    decimals: Annotated[int, typer.Option(min=0, max=15, help="Of every figure.")] = 2,
    transpose: Annotated[bool, typer.Option("--transpose", help="Columns as rows.")] = False,
    published: Annotated[bool, typer.Option("--published", help="Published figures beside ours.")] = False,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="terminal, markdown, latex, html, csv or json; default: by the file's ending."
        ),
    ] = None,
    out: Annotated[Path | None, _out("The file to write: .txt, .md, .tex, .html, .csv or .json.")] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="wandb:ENTITY/PROJECT", help="Mirrored runs, without runs_dir."),
    ] = None,
    group: Annotated[str | None, typer.Option(help="With --from: only the runs of this sweep.")] = None,
    per_image: Annotated[
        bool,
        typer.Option("--per-image", help="With --from: compare image by image; two requests a run."),
    ] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Print a table of runs: models by datasets, mean and standard error over seeds, the best in bold."""
    from vlae.cli.table import print_table

    print_table(
        runs_dir, name, format, out, decimals=decimals, transpose=transpose,
        metric=metric, rows=_listed("--rows", rows), columns=_listed("--cols", cols), where=where, literature=published,
        source=source, group=group, per_image=per_image,
    )  # fmt: skip


@app.command()
def metrics() -> None:
    """List all metrics: names, units, and what each says."""
    from vlae.runs.metrics import listing
    from vlae.system.console import Console

    console = Console(highlight=False, markup=False)
    console.print(listing(console.width if console.is_terminal else None), soft_wrap=True)


@app.command(short_help="Draw curves, likelihoods, costs, posteriors.")
def figure(
    name: Annotated[str, typer.Argument(metavar="SWEEP|PREFIX", help="A sweep, or how ids of runs begin.")],
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="curves, likelihood_vs_updates, cost; of trained models covariance, updates, estimators, latent_path.",
        ),
    ],
    out: Annotated[Path, _out("The file to write: .pdf, .svg or .png.")],
    metric: Annotated[str | None, typer.Option(help="A metric (see vlae metrics).")] = None,
    rows: Annotated[
        str | None, typer.Option(help="Keys that make a line each, by commas: model,optimizer.lr")
    ] = None,
    where: Annotated[str, typer.Option(help="Which runs: 'seed<3 and model in vae,vlae'")] = "",
    published: Annotated[bool, typer.Option("--published", help="Published figures beside ours.")] = False,
    images: Annotated[int | None, typer.Option(min=1, help="How many test images are looked at.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Up to how many samples an image.")] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Draw runs: learning curves, likelihoods over updates, costs, and what inference does in trained models."""
    from vlae.cli.figure import draw_figure

    draw_figure(
        runs_dir, name, kind, out, metric=metric, rows=_listed("--rows", rows), where=where, published=published,
        images=images, samples=samples,
    )  # fmt: skip


@app.command(short_help="Compare two runs: settings, metrics, paired difference.")
def compare(
    one: Annotated[str, typer.Argument(metavar="RUN_A", help="A run directory, an id, or its beginning.")],
    other: Annotated[str, typer.Argument(metavar="RUN_B", help="The run it is compared with.")],
    out: Annotated[Path | None, _out("The file for both learning curves: .pdf, .svg or .png.")] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Compare two runs: settings that differ, figures side by side, and their paired difference over test images."""
    from vlae.cli.compare import compare_runs

    compare_runs(runs_dir, one, other, out)


@app.command(short_help="Print the log of a run's last attempt.")
def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Print what the last attempt of a run has told, its traceback included."""
    from vlae.launching.logs import follow_log, print_log, run_of

    def tell(text: str) -> None:
        print(
            text.replace("\r\n", "\n").replace("\r", "\n"), end="", flush=True
        )  # bars of libraries, one by one
        if cannot_print():
            raise typer.Exit(2)

    (follow_log if follow else print_log)(run_of(runs_dir, run), tell)


@app.command(short_help="Cancel runs that wait or are under way.")
def cancel(
    name: Annotated[
        str, typer.Argument(metavar="SWEEP|RUN", help="A sweep, a run, or how ids of runs begin.")
    ],
    runs_dir: RunsDir = "runs",
) -> None:
    """Cancel runs: those that wait do not start, those under way save their state and end.

    The command that launched them goes on with them later.
    """
    from vlae.launching.cancel import cancel
    from vlae.launching.status_table import chosen

    title, labels = chosen(runs_dir, name)
    cancelled = cancel(runs_dir, list(labels), lambda text: print(f"warning: {text}", file=sys.stderr))
    for run_id in cancelled:
        print(f"cancelled: {labels[run_id] or run_id}")
    print(f"{title}: {len(cancelled)} of {len(labels)} runs were waiting or under way")


@app.command(short_help="Upload to Weights & Biases what is not there yet.")
def sync(
    name: Annotated[
        str | None, typer.Argument(metavar="[SWEEP|RUN]", help="A sweep, a run, or how ids of runs begin.")
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Make the runs on Weights & Biases anew, and delete the old ones."),
    ] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Upload to Weights & Biases what is not there yet: runs that were offline, or were cut off.

    Safe to repeat: what is complete is passed over.
    """
    from vlae.launching.status_table import chosen
    from vlae.trackers.sync import sync

    _, labels = chosen(runs_dir, name)
    sync((RunDirectory(Path(runs_dir) / run_id) for run_id in labels), _say, rebuild=rebuild)


@app.command(short_help="Write a report of runs: one HTML file.")
def report(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[SWEEP|PREFIX]", help="A sweep, or how ids of runs begin; default: all runs."
        ),
    ] = None,
    out: Annotated[Path | None, _out("The HTML file to write; default: report.html.")] = None,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="A report on Weights & Biases instead, which is made or replaced.")
    ] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Write a report of runs: one HTML file with tables, curves, images, failures, which needs no network."""
    if wandb:
        if out is not None:
            raise UserError(f"--wandb writes no file: leave out --out {out}")
        if name is None:
            raise UserError("--wandb: expected a sweep: vlae report SWEEP --wandb")
        from vlae.report.wandb_report import publish

        print(publish(runs_dir, name))
        return
    from vlae.cli.report import write_report

    write_report(runs_dir, name, out or Path("report.html"))


@app.command(short_help="Evaluate a trained model again.")
def evaluate(
    run: Run,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="evaluate.*, seed, device, num_threads, dataset.root, dataset.path, dataset.url.",
        ),
    ] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Evaluate a trained model again: vlae evaluate RUN evaluate.num_samples=1000 seed=1 device=cuda

    The model's own settings come from the run. The run's results.json stays as it is; the new figures go to
    RUN/evaluations/.
    """
    from vlae.experiment.summary import summary
    from vlae.system.console import Console, loading

    with loading():
        check_libraries()
        from vlae.experiment.reevaluate import reevaluate

    results, path = reevaluate(find(runs_dir, run, to_write=True), overrides or [])
    Console(highlight=False).print(summary(results, path))


@app.command(short_help="Draw images from a model.")
def sample(
    run: Run,
    num: Annotated[int, typer.Option(min=1, max=100_000, help="How many images.")] = 64,
    out: Annotated[Path, _out("The PNG file to write.")] = Path("samples.png"),
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Other seeds give other images.")] = 0,
    runs_dir: RunsDir = "runs",
    device: Device = "cpu",
) -> None:
    """Draw images from the model: z ~ N(0, I) through the decoder.

    The same for every model: the Laplace part of a VLAE is for inference only, as is every refinement of q(z | x). It
    says where an image's z is, and has no part in generating images.
    """
    import math

    from vlae.cli.output_file import ending_of
    from vlae.system.console import loading
    from vlae.system.files import write_output

    with loading():
        check_libraries()
        from vlae.experiment.pictures import grid
        from vlae.experiment.trained_model import load

    ending_of(out, ("png",))
    images = load(str(find(runs_dir, run).path), runs_dir, device).sample(num, seed)
    write_output(out, grid(images, math.ceil(math.sqrt(num))))
    print(str(out))


@app.command()
def download(
    names: Annotated[
        list[str], typer.Argument(metavar="DATASET...", help="mnist, fashion_mnist, omniglot, svhn, cifar10")
    ],
    root: Annotated[
        str,
        typer.Option(
            parser=_path("--root"),
            metavar="<path>",
            help="Where datasets are kept: dataset.root of the runs.",
        ),
    ] = "datasets",
) -> None:
    """Fetch datasets ahead, for machines without internet."""
    from vlae.data import datasets

    datasets.download(names, root)


def main() -> None:
    """The console script: what a user can put right is one message, not a traceback."""
    guard()
    sys.exit(printed(_status()))


def _status() -> int:
    """Carries the command out; its exit status."""
    try:
        status = app(sys.argv[1:] or ["--help"], prog_name="vlae", standalone_mode=False)
    except _UsageError as error:
        said = error.format_message().rstrip(".")
        command = error.ctx.command_path if error.ctx else "vlae"
        print(f"vlae: {said[0].lower()}{said[1:]} (see {command} --help)", file=sys.stderr)
        return error.exit_code
    except UserError as error:
        print(f"vlae: {error}", file=sys.stderr)
        return error.exit_status
    except ImportError as error:
        print(f"vlae: {explained(error.name or 'a library', error)}", file=sys.stderr)
        return 2
    except Interrupted as interrupted:
        print(f"vlae: {interrupted}; nothing was written", file=sys.stderr)
        return 128 + interrupted.number
    except SystemExit as error:  # --show-completion
        return error.code if isinstance(error.code, int) else 0
    except typer.Abort:
        status = 130
    except Exception as error:
        if text := out_of_memory(error):
            print(f"vlae: {text}", file=sys.stderr)
            return OutOfMemory.exit_status
        raise
    if status == 130:  # typer takes a Ctrl-C without a word
        print("vlae: stopped", file=sys.stderr)
    return status or 0
