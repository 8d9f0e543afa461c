"""One run, from its configuration to results.json: a straight line."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlae import config, record
from vlae.console import Reporter
from vlae.interruption import Interrupted, Interruption

if TYPE_CHECKING:
    from vlae.train import Progress, Training
    from vlae.trained import Prepared


def launch(container: dict[str, Any]) -> int:
    """What ``python launch.py`` does with a composed configuration. Returns the exit status."""
    try:
        run(container)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    return 0


def run(container: dict[str, Any], *, quiet: bool = False) -> dict[str, Any]:
    """Bring the run of this configuration to its results, from wherever it stands, and return them.

    Done: the results are shown. Interrupted or killed: it goes on from the last checkpoint. ``force=true``: it is
    done anew beside the old results, which it replaces when it has its own.
    """
    identity, runs_dir, force = config.run_id(container), Path(container["runs_dir"]), container["force"]
    record.recover(runs_dir, identity)
    reporter = Reporter(quiet=quiet)
    directory = record.RunDirectory(runs_dir / identity)
    results = directory.results()
    if results is not None and not force:
        directory.config()  # refuses a frozen configuration that was edited
        reporter.line(f"done: {directory.path}")
        reporter.result(results, directory.path)
        return results
    directory.refuse_if_held()  # before the seconds that importing torch takes, and a download
    from vlae.trained import prepare

    # whatever is wrong with the configuration, the device or the data shows before anything is left on disk
    prepared = prepare(config.validate(container))
    create = record.forced_directory if force else record.RunDirectory.create
    directory = create(runs_dir, identity, container)
    directory.config()
    results = execute(directory, prepared, quiet=quiet)
    if force:
        directory = record.promote(directory, runs_dir)
    reporter.result(results, directory.path)
    return results


def execute(directory: record.RunDirectory, prepared: "Prepared", *, quiet: bool = False) -> dict[str, Any]:
    """Claim the run, train, draw, evaluate, and write results.json last."""
    from vlae.evaluate import unit_log_jacobian
    from vlae.figures import check_arrays, save_evaluations
    from vlae.pictures import save_pictures
    from vlae.results import device_name, report
    from vlae.scoring import score

    cfg, x = prepared.config, prepared.test_set
    with (
        directory.claim() as attempt,
        Interruption() as interruption,
        Reporter(attempt.directory / "log.txt", quiet) as reporter,
    ):
        if (results := directory.results()) is not None:  # another process finished it meanwhile
            return results
        reporter.line(f"{directory.run_id}, attempt {attempt.number}, on {device_name(prepared.device)}")
        if cfg.trainer.selection == "test":
            reporter.warn("the best epoch is selected on the test set, so its figures are optimistic")
        training = prepared.training(directory)
        for text in training.resume():
            reporter.warn(text)
        if training.progress.step:
            reporter.line(f"going on from epoch {training.progress.epoch}, step {training.progress.step}")
        try:
            training.run(interruption, _training_report(reporter, attempt, training, prepared.space))
            trained = prepared.trained(training)
            save_pictures(trained, x, directory.path / "images", cfg.seed)
            scores = score(trained, cfg, x, interruption, reporter, attempt.heartbeat)
        except Interrupted as interrupted:
            reporter.line(f"{interrupted}, saved in {directory.path}; the same command goes on from here")
            raise
        log_jacobian = unit_log_jacobian(trained.preprocess, x)
        place = directory.path / "test_log_likelihood.npz"
        save_evaluations(place, scores.proposals, log_jacobian, check_arrays(scores, log_jacobian))
        results = report(trained, cfg, scores, x)
        directory.write_results(results)
    return results


def _training_report(
    reporter: Reporter, attempt: record.Attempt, training: "Training", space: str
) -> Callable[["Progress", dict[str, float] | None], None]:
    def report(progress: "Progress", line: dict[str, float] | None) -> None:
        epochs = training.schedule.epochs
        attempt.heartbeat({"epoch": progress.epoch, "epochs": epochs, "step": progress.step})
        done = progress.epoch + progress.batch / training.batches_per_epoch
        if line is None:
            reporter.advance("training epoch", done, epochs)
            return
        text = (
            f"ELBO {line['train/elbo_nats']:.2f} train, {line[training.selection_name + '/elbo_nats']:.2f} "
            f"{training.selection_name} (best {progress.best_elbo:.2f} in epoch {progress.best_epoch}) nats{space}"
        )
        reporter.advance("training epoch", done, epochs, text, last=training.finished)

    return report
