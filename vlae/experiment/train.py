"""The training of a run, from its last checkpoint to the best epoch's model, with its progress and its pictures."""

from collections.abc import Callable

from vlae.config.targets import build
from vlae.experiment.pictures import pictures_every, write_epoch_pictures, write_pictures
from vlae.experiment.prepare import Prepared
from vlae.experiment.results import code_and_torch, device_name
from vlae.experiment.session import Session
from vlae.experiment.shared_training import share_training
from vlae.experiment.trained_model import TrainedModel
from vlae.training.loop import Training


def train(session: Session, prepared: Prepared) -> TrainedModel:
    """Train until finished, write the pictures of the best epoch's model, and return it.

    Errors: Interrupted by a signal, after a checkpoint; NonFiniteError; RecordError.
    """
    cfg, directory, reporter = prepared.config, session.directory, session.reporter
    device = device_name(prepared.test_set.device)
    reporter.line(f"{directory.run_id}, attempt {session.attempt.number}, on {device}")
    if cfg.trainer.selection == "test":
        reporter.warn("the best epoch is selected on the test set, so its metrics are optimistic")
    made_with = code_and_torch()
    training = Training(
        model=prepared.model,
        optimizer=build(cfg.optimizer, params=prepared.model.parameters()),
        training_set=prepared.training_set,
        selection_set=prepared.selection_set,
        trainer=cfg.trainer,
        schedule=cfg.schedule,
        seed=cfg.seed,
        directory=directory,
        training_id=directory.training(),
        made_with=made_with,
    )
    with share_training(session, prepared.model, made_with) as origin:
        for text in training.resume():
            reporter.warn(text)
        if prepared.lacking is not None and not training.progress.step:
            raise prepared.lacking
        if training.progress.step:
            at = f"epoch {training.progress.epoch}, step {training.progress.step}{origin}"
            reporter.line(f"{'trained already:' if training.is_finished else 'continuing from'} {at}")
        training.run(session.interruption, _report(session, prepared, training))
    prepared.model.load_state_dict(training.progress.best_model)
    trained = _trained_model(prepared, training)
    write_pictures(directory.path / "images", trained, prepared.test_set)
    return trained


def _trained_model(prepared: Prepared, training: Training, *, now: bool = False) -> TrainedModel:
    """The best epoch's model, which ``prepared`` has at the end; or the one that training has now."""
    offset = prepared.preprocess.unit_log_jacobian(prepared.selection_set).mean().item()
    best = training.progress.best_elbo + offset
    model = training.result if now else prepared.model
    return TrainedModel(
        model, prepared.preprocess, prepared.config, training.directory, training.progress, best
    )


def _report(
    session: Session, prepared: Prepared, training: Training
) -> Callable[[dict[str, float] | None], None]:
    """A function that shows and records the progress of the training, and writes pictures for mirrors."""
    latest: dict[str, float] = {}
    cfg, progress, selection = prepared.config, training.progress, training.selection_name
    epochs, every = cfg.trainer.epochs, pictures_every(cfg)

    def report(line: dict[str, float] | None) -> None:
        done = progress.epoch + progress.batch / training.batches_per_epoch
        if line is not None:
            latest["elbo"] = round(line[f"{selection}/elbo_nats"], 2)
        session.attempt.heartbeat(
            {"epoch": progress.epoch, "epochs": epochs, "step": progress.step, **latest}
        )
        if line is None:
            session.reporter.advance("training epoch", done, epochs)
            return
        if every and progress.epoch % every == 0:
            current = _trained_model(prepared, training, now=True)
            write_epoch_pictures(
                training.directory.path / "images", current, prepared.selection_set, progress.epoch
            )
        text = (
            f"ELBO {line['train/elbo_nats']:.2f} train, {line[f'{selection}/elbo_nats']:.2f} {selection} "
            f"(best {progress.best_elbo:.2f} in epoch {progress.best_epoch}) nats{prepared.preprocess.space_note}"
        )
        session.reporter.advance("training epoch", done, epochs, text, last=training.is_finished)

    return report
