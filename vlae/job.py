"""One run, from its configuration to results.json: a straight line."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlae import config, record
from vlae.console import Reporter, figure, summary
from vlae.interruption import Interrupted, Interruption

if TYPE_CHECKING:
    from vlae.evaluate import Evaluation
    from vlae.splits import Splits
    from vlae.train import Progress, Training
    from vlae.trained import TrainedModel

EVALUATION_CHECKPOINT_SECONDS = 30.0


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
        reporter.line(f"done: {directory.path}")
        reporter.console.print(summary(results, directory.path))
        return results
    from vlae import data  # and torch, which takes seconds: only what is not yet done pays for it

    checked = config.validate(container)
    splits = data.load(checked.dataset)  # fails before anything is left on disk
    create = record.forced_directory if force else record.RunDirectory.create
    directory = create(runs_dir, identity, container)
    directory.config()  # refuses a frozen configuration that was edited
    results = execute(directory, checked, splits, quiet=quiet)
    if force:
        directory = record.promote(directory, runs_dir)
    reporter.console.print(summary(results, directory.path))
    return results


def execute(
    directory: record.RunDirectory, cfg: config.Config, splits: "Splits", *, quiet: bool = False
) -> dict[str, Any]:
    """Claim the run, train, draw, evaluate, and write results.json last."""
    from vlae import measurements, pictures
    from vlae.evaluate import figures
    from vlae.trained import prepare

    training, trained, x_test = prepare(directory, cfg, splits)
    with (
        directory.claim() as attempt,
        Interruption() as interruption,
        Reporter(attempt.directory / "log.txt", quiet) as reporter,
    ):
        if (results := directory.results()) is not None:  # another process finished it meanwhile
            return results
        reporter.line(
            f"{directory.run_id}, attempt {attempt.number}, on {measurements.device_name(trained.device)}"
        )
        if cfg.trainer.selection == "test":
            reporter.warn("the best epoch is selected on the test set, so its figures are optimistic")
        for text in training.resume():
            reporter.warn(text)
        if training.progress.step:
            reporter.line(f"going on from epoch {training.progress.epoch}, step {training.progress.step}")
        try:
            training.run(interruption, _training_report(reporter, attempt, training))
            trained.model.load_state_dict(training.progress.best_model)
            pictures.save_pictures(trained, x_test, directory.path / "images", cfg.seed)
            evaluation, seconds = score(directory, trained, x_test, interruption, reporter, attempt)
        except Interrupted as interrupted:
            attempt.reason = str(interrupted)
            reporter.line(f"{interrupted}, saved in {directory.path}; the same command goes on from here")
            raise
        results = {
            "run_id": directory.run_id,
            **{
                section: getattr(cfg, section)["name"]
                for section in ("model", "dataset", "output_dist", "optimizer")
            },
            "seed": cfg.seed,
            "best_epoch": training.progress.best_epoch,
            "epochs": training.progress.epoch,
            "selection": cfg.trainer.selection,
            "test": figures(evaluation, trained.preprocess, x_test, cfg.evaluate.num_samples),
            "validation": {
                "elbo": training.progress.best_elbo if cfg.trainer.selection == "validation" else None
            },
            "cost": measurements.cost(training, trained.model, seconds),
            "environment": measurements.environment(trained.device),
        }
        evaluation.save(directory.path / "test_log_likelihood.npz")
        directory.write_results(results)
    return results


def score(
    directory: record.RunDirectory,
    trained: "TrainedModel",
    x: Any,
    interruption: Interruption,
    reporter: Reporter,
    attempt: record.Attempt,
) -> tuple["Evaluation", float]:
    """Evaluate on the test set, resumably. Returns what it cost in seconds over all attempts, too."""
    from vlae import checkpoint
    from vlae.evaluate import Evaluation, evaluate

    place = directory.path / "checkpoints"
    state, warnings = checkpoint.load(place, "evaluation")
    for text in warnings:
        reporter.warn(text)
    evaluation = Evaluation(**state["evaluation"]) if state else None
    before, began = state["seconds"] if state else 0.0, time.monotonic()
    saved = began

    def store(evaluation: "Evaluation") -> None:
        seconds = before + time.monotonic() - began
        checkpoint.save(place, {"evaluation": vars(evaluation), "seconds": seconds}, "evaluation")

    def report(evaluation: "Evaluation") -> None:
        nonlocal saved
        done, total = evaluation.done, len(x)
        known = evaluation.log_likelihood[:done]
        text = f"log-likelihood {figure(known.mean().item(), None)} nats (model space)"
        reporter.advance("evaluating image", done, total, text, last=done == total)
        attempt.heartbeat({"image": done, "images": total})
        if interruption.requested or time.monotonic() - saved > EVALUATION_CHECKPOINT_SECONDS:
            store(evaluation)
            saved = time.monotonic()

    settings = trained.config.evaluate
    evaluation = evaluate(
        trained.model,
        x,
        num_samples=settings.num_samples,
        memory_budget=settings.memory_budget,
        seed=trained.config.seed,
        evaluation=evaluation,
        interruption=interruption,
        report=report,
    )
    return evaluation, before + time.monotonic() - began


def _training_report(
    reporter: Reporter, attempt: record.Attempt, training: "Training"
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
            f"{training.selection_name} (best {progress.best_elbo:.2f} in epoch {progress.best_epoch}) nats"
        )
        reporter.advance("training epoch", done, epochs, text, last=training.finished)

    return report
