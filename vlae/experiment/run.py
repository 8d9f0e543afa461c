"""One run, from its configuration to results.json: a straight line."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlae.config.compose import validate, with_absolute_paths
from vlae.config.installation import check_libraries
from vlae.config.limits import beyond_the_machine
from vlae.config.problems import ConfigError
from vlae.config.run_id import run_id
from vlae.errors import OutOfMemory, UserError, out_of_memory
from vlae.experiment.summary import summary
from vlae.runs.attempts import Attempt, RunHeld
from vlae.runs.directory import RunDirectory, earlier_twins, forced_directory, promote, same_as_earlier
from vlae.runs.lease import FORCED, last_number
from vlae.runs.rerun import recover
from vlae.runs.snapshot import executed
from vlae.system.console import Reporter, loading, open_log, reported_to
from vlae.system.disk import DiskError, Patience, RecordError, notice, patient, refusal_in
from vlae.system.files import appearing, check_writable, make_directory, write_atomically
from vlae.system.interruption import Interrupted, Interruption
from vlae.system.streams import do_not_wait
from vlae.trackers.process import environment_problems, has_mirror, start_mirror, upload_later

if TYPE_CHECKING:
    from vlae.experiment.prepare import Prepared
    from vlae.training.loop import Progress, Training

DONE, FAILED, HELD, REFUSED = 0, 1, 75, 74
"""Exit statuses of `work`, besides 128 + the number of a signal; REFUSED: the disk takes no writes."""
LESS_MEMORY = "a smaller trainer.batch_size or evaluate.memory_budget needs less"


def run_command(container: dict[str, Any]) -> int:
    """Execute the run of a composed configuration, for ``python launch.py``. Returns the exit status."""
    try:
        run(container)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except Exception as error:
        if text := out_of_memory(error):
            raise OutOfMemory(f"{text}; {LESS_MEMORY}") from error
        raise
    return DONE


def run(container: dict[str, Any], *, quiet: bool = False) -> dict[str, Any]:
    """Bring the run of this configuration to its results, from its present state, and return them.

    A run that is done shows its results; one that was interrupted or killed continues from the last checkpoint. With
    ``force=true`` it runs again beside the old results, and replaces them when it has its own.
    Errors: ConfigError, DataError before anything is on disk; RunHeld by another process; those of ``execute``.
    """
    identity, runs_dir, force = run_id(container), Path(container["runs_dir"]), container["force"]
    recover(runs_dir, identity)
    reporter = Reporter(quiet=quiet)
    directory = RunDirectory(runs_dir / identity)
    results = directory.results()
    if results is not None and not force:
        directory.config()  # refuses a frozen configuration that was edited
        with suppress(DiskError):  # settling can wait
            directory.settle()
        reporter.line(f"done: {directory.path}")
        reporter.result(summary(results, directory.path))
        return results
    check_writable(runs_dir)
    directory.refuse_if_held()  # before the seconds that importing torch takes, and a download
    if text := same_as_earlier(earlier_twins(runs_dir, {identity: container})):
        reporter.line(text)
    prepared = _check_and_prepare(container, quiet)
    do_not_wait()
    create = forced_directory if force else RunDirectory.create
    frozen = with_absolute_paths(container)
    directory = create(runs_dir, identity, frozen)
    directory.carry_out_as(frozen)
    results = execute(directory, lambda: prepared, quiet=quiet)
    if force:
        with patient(Patience(runs_dir)):
            directory = promote(directory, runs_dir)
    reporter.result(summary(results, directory.path))
    if text := upload_later(directory):
        reporter.line(text)
    return results


def _check_and_prepare(container: dict[str, Any], quiet: bool) -> "Prepared":
    """Model and data of a configuration. Its errors, the device's and the data's come before anything is on disk."""
    executed()  # note the code before the imports below
    with nullcontext() if quiet else loading():
        check_libraries()
        from vlae.experiment.prepare import prepare

    if problems := environment_problems(container["tracker"]):
        raise ConfigError(problems)
    checked = validate(container)
    if problems := beyond_the_machine(container, here=True):
        raise ConfigError(problems)
    return prepare(checked)


def work(path: Path, attempts: int, threads: int | None = None) -> int:
    """Execute a frozen run directory, as a worker: the record says everything, and no terminal is needed.

    attempts: their number when this start was planned. A run that has failed since then is not started again; one that
    was interrupted continues. threads: CPU threads, if the run does not set them.
    Returns DONE; HELD: done since, or executed by another process; REFUSED by the disk; FAILED; 128 + a signal.
    """
    directory = RunDirectory(path)
    if (status := _reason_not_to_start(directory, attempts)) is not None:
        return status
    try:
        execute(directory, lambda: _prepare_frozen(directory, threads), captured=True)
        if path.parent.name == FORCED:
            with patient(Patience(path.parent.parent)):
                promote(directory, path.parent.parent)
    except RunHeld:
        return HELD
    except DiskError:
        return REFUSED
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except KeyboardInterrupt:  # a second Ctrl-C
        return 128 + signal.SIGINT
    except Exception:
        # no record holds errors before the claim or after the results
        if directory.state() != "failed":
            traceback.print_exc()
        return FAILED
    return DONE


def _reason_not_to_start(directory: RunDirectory, attempts: int) -> int | None:
    """The status of a `work` that cannot start: no run, or no code or libraries to execute it. None: it can."""
    path = directory.path
    if not (path / "config.yaml").is_file():
        if path.parent.name == FORCED and (path.parent.parent / path.name / "results.json").is_file():
            return HELD  # a job that was requeued too late: its run has replaced the old one
        print(f"vlae: {path} is not a run, or no longer", file=sys.stderr)
        return FAILED
    try:
        executed()  # refuses frozen code that is damaged: the run stays as it is, for the next launch
    except RecordError as error:
        print(f"vlae: {path.name} not started: {error}", file=sys.stderr, flush=True)
        return FAILED
    if last_number(path / "attempts") != attempts and (state := directory.state()) in ("failed", "done"):
        return FAILED if state == "failed" else HELD
    try:
        check_libraries()
    except UserError as error:
        print(f"vlae: {error}", file=sys.stderr)
        return FAILED
    return None


def _prepare_frozen(directory: RunDirectory, threads: int | None) -> "Prepared":
    """The model and the data of a frozen configuration; threads: CPU threads, if it does not set them."""
    from vlae.experiment.prepare import prepare

    container = directory.config()
    return prepare(validate({**container, "num_threads": container["num_threads"] or threads}))


def execute(
    directory: RunDirectory, prepare: Callable[[], "Prepared"], *, quiet: bool = False, captured: bool = False
) -> dict[str, Any]:
    """Claim the run, train, draw, evaluate, and write results.json last. Returns the results.

    ``captured``: everything that this process prints goes to the attempt's log.
    Errors: RunHeld by another process; Interrupted by a signal; DiskError; and any error of the run itself.
    """
    patience = Patience(directory.path.parent)
    patience.say = lambda reason: (
        None if captured or reason is None else print(notice(reason), file=sys.stderr)
    )
    with (
        ExitStack() as after,
        patient(patience),
        directory.claim() as attempt,
        _redirect_output(attempt.log) if captured else nullcontext(),
    ):
        patience.say = attempt.waits
        if (results := directory.results()) is not None:  # another process finished it meanwhile
            return results
        after.enter_context(start_mirror(directory))  # until the attempt has ended
        with (
            Interruption() as interruption,
            Reporter(attempt.log, quiet or captured) as reporter,
            _report_waiting(patience, attempt, interruption, reporter),
            reported_to(attempt.advanced),
            _explain_end(directory, patience, reporter),
        ):
            return _carry_out(directory, attempt, prepare(), interruption, reporter)


@contextmanager
def _explain_end(directory: RunDirectory, patience: Patience, reporter: Reporter) -> Iterator[None]:
    """Inside, an interruption is reported, and an error caused by a full disk becomes a DiskError."""
    try:
        yield
    except Interrupted as interrupted:
        text = f"{interrupted}, saved in {directory.path}; the same command continues from here"
        if patience.refusal:
            text = f"{interrupted}: {patience.refusal}; the same command continues from the last checkpoint"
        reporter.line(text)
        raise
    except Exception as error:
        if (reason := refusal_in(error)) and not isinstance(error, DiskError):
            raise DiskError(f"{directory.path}: {error}", reason) from error
        raise


@contextmanager
def _report_waiting(
    patience: Patience, attempt: Attempt, interruption: Interruption, reporter: Reporter
) -> Iterator[None]:
    """Inside, waiting for the disk is reported, and a signal ends it."""

    def say(reason: str | None) -> None:
        reporter.line(notice(reason) if reason else "writes are taken again", style="yellow")
        attempt.waits(reason)

    patience.say, patience.check = say, interruption.check
    try:
        yield
    finally:
        patience.say, patience.check = attempt.waits, lambda: None


def _carry_out(
    directory: RunDirectory,
    attempt: Attempt,
    prepared: "Prepared",
    interruption: Interruption,
    reporter: Reporter,
) -> dict[str, Any]:
    """Train from the last checkpoint, draw, evaluate, and write the results."""
    from vlae.estimation.metrics import save_scores
    from vlae.experiment.pictures import pictures
    from vlae.experiment.results import device_name, report
    from vlae.experiment.scoring import score

    cfg, x = prepared.config, prepared.test_set
    reporter.line(f"{directory.run_id}, attempt {attempt.number}, on {device_name(prepared.device)}")
    if cfg.trainer.selection == "test":
        reporter.warn("the best epoch is selected on the test set, so its metrics are optimistic")
    training = prepared.training(directory)
    for text in training.resume():
        reporter.warn(text)
    if training.progress.step:
        reporter.line(f"continuing from epoch {training.progress.epoch}, step {training.progress.step}")
    picture = _epoch_pictures(prepared, training) if has_mirror(cfg.tracker) else None
    space = prepared.preprocess.space_note
    training.run(interruption, _training_report(reporter, attempt, training, space, picture))
    trained = prepared.best_model(training)
    place = make_directory(directory.path / "images")
    for name, content in pictures(trained, x, cfg.seed).items():
        write_atomically(place / f"{name}.png", content)
    scores = score(trained, cfg, x, interruption, reporter, attempt.heartbeat)
    save_scores(directory.path / "test_log_likelihood.npz", scores, trained.preprocess.unit_log_jacobian(x))
    results = report(trained, cfg, scores, x)
    directory.write_results(results)
    return results


def _epoch_pictures(prepared: "Prepared", training: "Training") -> Callable[[int], None]:
    """A function that writes all pictures of an epoch at once, every ``tracker.images_every`` epochs."""
    from vlae.experiment.pictures import pictures

    cfg, x = prepared.config, training.selection_set
    every = cfg.tracker.images_every or max(1, cfg.trainer.epochs // 10)

    def picture(epoch: int) -> None:
        if epoch % every == 0:
            drawn = pictures(prepared.current_model(training), x, cfg.seed)
            with appearing(training.directory.path / "images" / f"epoch-{epoch:06d}") as staged:
                for name, content in drawn.items():
                    write_atomically(staged / f"{name}.png", content)

    return picture


def _training_report(
    reporter: Reporter,
    attempt: Attempt,
    training: "Training",
    space: str,
    picture: Callable[[int], None] | None,
) -> Callable[["Progress", dict[str, float] | None], None]:
    """A function that shows and records the progress of the training."""
    latest: dict[str, float] = {}

    def report(progress: "Progress", line: dict[str, float] | None) -> None:
        epochs = training.trainer.epochs
        done = progress.epoch + progress.batch / training.batches_per_epoch
        if line is not None:
            latest["elbo"] = round(line[f"{training.selection_name}/elbo_nats"], 2)
        attempt.heartbeat({"epoch": progress.epoch, "epochs": epochs, "step": progress.step, **latest})
        if line is None:
            reporter.advance("training epoch", done, epochs)
            return
        if picture is not None:
            picture(progress.epoch)
        text = (
            f"ELBO {line['train/elbo_nats']:.2f} train, {line[training.selection_name + '/elbo_nats']:.2f} "
            f"{training.selection_name} (best {progress.best_elbo:.2f} in epoch {progress.best_epoch}) nats{space}"
        )
        reporter.advance("training epoch", done, epochs, text, last=training.finished)

    return report


@contextmanager
def _redirect_output(log: Path) -> Iterator[None]:
    """Append standard output and error of this process and its children to a file."""
    kept, file = (os.dup(1), os.dup(2)), open_log(log)
    try:
        _flush()
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise
    finally:
        _flush()
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
        file.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk costs the output, not the run
            stream.flush()
