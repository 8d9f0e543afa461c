"""The evaluation of a trained model with other settings."""

from typing import Annotated

import typer

from vlae.cli.options import Run, RunsDir


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
    """Evaluate a trained model again.

    An example: vlae evaluate RUN evaluate.num_samples=1000 seed=1 device=cuda

    The model's own settings come from the run. The run's results.json stays as it is; the new metrics go to
    RUN/evaluations/.
    """
    from vlae.experiment.start import check_code
    from vlae.experiment.summary import run_summary
    from vlae.runs.directory import find
    from vlae.system.console import Console, loading

    with loading():
        check_code()
        from vlae.experiment.reevaluate import reevaluate

    results, path = reevaluate(find(runs_dir, run, to_write=True), overrides or [])
    Console(highlight=False).print(run_summary(results, path))
