"""Sweeps of a thousand runs, and ten thousand run directories: how long the commands take that deal with them.

To add a case, add an entry to ``SCALE``; its ``measure`` makes what it needs in an empty directory.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import browser
from benchmarks.alternating import Took, in_turns
from vlae.config.compose import compose
from vlae.config.run_id import run_id
from vlae.launching import queues
from vlae.launching.queues import Waiting
from vlae.runs.directory import RunDirectory
from vlae.runs.snapshot import SOURCE
from vlae.system.files import read_json
from vlae.system.interruption import Interrupted

MODELS = ("vae", "savae", "hf", "iaf", "vlae")
IN_TEN_THOUSAND = {"done": 9000, "failed": 300, "stopped": 150, "killed": 150, "running": 4, "new": 396}
"""States of the runs of a large runs directory; those of the last two are in a running queue."""
VLAE = ("-c", "from vlae.cli.app import main; main()")
IMAGES = 300
"""Number of images in the test set of digits."""
ARRAYS = "test_log_likelihood.npz"
REPORT = "report.html"
EPOCHS = 2000
"""Epochs of each run that is reported: the default of most datasets."""
FIGURES = (
    *(f"{of}/{what}_nats" for of in ("train", "validation") for what in ("elbo", "reconstruction", "kl")),
    *("gradient_norm", "learning_rate", "output/log_variance", "seconds"),
)
"""Metrics of each epoch."""
SMALL = ("model=vae", "dataset=digits", "trainer.epochs=30", "evaluate.num_samples=200", "num_threads=1")
"""A run of a few seconds on one core."""


Say = Callable[[str], None]


@dataclass(frozen=True)
class Scale:
    """One line of the table: the less, the better."""

    name: str
    what: str
    measure: Callable[["Amount", Path, Say], list[float]]
    """The measurement in an empty directory; one value per round, none if this machine lacks a requirement."""
    asked: float
    """Less than this."""
    unit: str = "s"


@dataclass(frozen=True)
class Amount:
    """The number of rounds, and the size of each case."""

    rounds: int = 3
    planned: int = 1000
    recorded: int = 10_000
    in_queue: int = 4
    """Runs of a sweep; each is done once more for itself."""
    reported: int = 500
    tracked_epochs: int = 200

    @property
    def is_full(self) -> bool:
        """True if it is the amount that the targets are for."""
        return (
            self.planned >= Amount.planned
            and self.recorded >= Amount.recorded
            and self.reported >= Amount.reported
        )


QUICK = Amount(rounds=1, planned=50, recorded=500, in_queue=2, reported=50, tracked_epochs=20)


@dataclass(frozen=True)
class Timing:
    """The measured times of a case."""

    numbers: tuple[float, ...]
    """One a round."""

    @property
    def median(self) -> float:
        return statistics.median(self.numbers)

    @property
    def best(self) -> float:
        return min(self.numbers)


def time_of(case: Scale, amount: Amount, say: Say) -> Timing:
    """The case measured in a directory that is removed afterwards."""
    with TemporaryDirectory() as folder:
        return Timing(tuple(case.measure(amount, Path(folder), say)))


def met(case: Scale, timing: Timing, amount: Amount) -> bool | None:
    """True if the median is less than the target; None: there is no target for this number of runs."""
    return timing.median < case.asked if amount.is_full else None


def plan(amount: Amount, folder: Path, say: Say) -> list[float]:
    """``dry_run=true`` of a sweep of which nothing is on disk."""
    overrides = sweep_of(amount.planned, folder)
    return list(
        _rounds(amount, say, lambda: seconds("launch.py", *overrides, "dry_run=true", expect="start"))
    )


def relaunch(amount: Amount, folder: Path, say: Say) -> list[float]:
    """The same sweep where all of its runs are done."""
    containers = [
        {**container, "seed": seed}
        for container in _containers()
        for seed in range(amount.planned // len(MODELS))
    ]
    fill(folder, {"done": containers})
    say(f"{len(containers)} run directories")
    overrides = sweep_of(amount.planned, folder)
    return list(_rounds(amount, say, lambda: seconds("launch.py", *overrides, expect="nothing to do")))


def status(amount: Amount, folder: Path, say: Say) -> list[float]:
    """``vlae status`` of all runs, in all states."""
    runs = fill_in_all_states(amount, folder, say)
    return list(
        _rounds(
            amount, say, lambda: seconds(*VLAE, "status", "--runs-dir", str(folder), expect=f"{runs} runs")
        )
    )


def collect_runs(amount: Amount, folder: Path, say: Say) -> list[float]:
    """All runs as rows; without the start of Python."""
    runs = fill_in_all_states(amount, folder, say)
    return list(_rounds(amount, say, lambda: _collecting(folder, runs)))


def table(amount: Amount, folder: Path, say: Say) -> list[float]:
    """The table of these rows, with its comparisons image by image, and with all imports; without collecting."""
    runs = fill_in_all_states(amount, folder, say)
    return list(_rounds(amount, say, lambda: _collecting(folder, runs, "make_table(runs)")))


def _collecting(folder: Path, runs: int, then: str = "") -> float:
    """Seconds inside a new process, of collecting or of what is done then."""
    script = (
        "import sys, time; began = time.perf_counter(); "
        "from vlae.report.sources.run_directories import collect_runs; first = time.perf_counter(); "
        f"runs = collect_runs(None, sys.argv[1]); took = time.perf_counter() - first; "
        f"assert len(runs.runs) == {runs}, runs.left_out[:3]"
    )
    if then:
        script = f"{script}; first = time.perf_counter(); from vlae.report.tables.table import make_table; {then}; "
        script += "took = time.perf_counter() - first"
    command = [sys.executable, "-c", f"{script}; print(took)", str(folder)]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, env=_environment())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return float(done.stdout)


def report_written(amount: Amount, folder: Path, say: Say) -> list[float]:
    """``vlae report`` of long runs with images, from nothing to the end of the command."""
    fill_for_a_report(amount, folder, say)
    return list(_rounds(amount, say, lambda: _report(folder)))


def report_size(amount: Amount, folder: Path, say: Say) -> list[float]:
    """The size of the report."""
    fill_for_a_report(amount, folder, say)
    _report(folder)
    return [(folder / REPORT).stat().st_size / 1e6]


def open_report(amount: Amount, folder: Path, say: Say) -> list[float]:
    """Seconds to open the report in a fresh browser: until all is loaded, and the curves are drawn."""
    if (path := browser.program()) is None:
        say(browser.HOW_TO_GET_IT)
        return []
    fill_for_a_report(amount, folder, say)
    _report(folder)

    def once() -> float:
        with browser.Browser(path) as page:
            page.view(1280, 900)
            page.open(folder / REPORT)
            timing = "performance.timing.loadEventEnd - performance.timing.navigationStart"
            return page.evaluate(timing) / 1000

    return list(_rounds(amount, say, once))


def _report(folder: Path) -> float:
    out = str(folder / REPORT)
    return seconds(*VLAE, "report", "--runs-dir", str(folder), "--out", out, expect=out)


def fill_for_a_report(amount: Amount, folder: Path, say: Say) -> None:
    """Runs of ten settings of each model, most of them done, with many epochs and with images."""
    models = [
        {**container, "optimizer": {**container["optimizer"], "lr": lr / 1e4}}
        for container in _containers()
        for lr in range(1, 11)
    ]
    fill_in_all_states(replace(amount, recorded=amount.reported), folder, say, models)
    generator = np.random.default_rng(0)
    texts = [_metrics(generator) for _ in range(20)]
    for number, run in enumerate(sorted(folder.glob("*-s*"))):
        (run / "metrics.jsonl").write_text(texts[number % len(texts)])
        (run / "images").mkdir()
        for name in ("data", "reconstructions", "prior_samples"):
            source = np.random.default_rng(0) if name == "data" else generator
            pixels = source.integers(0, 256, (265, 265, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(run / "images" / f"{name}.png", compress_level=1)


def _metrics(generator: np.random.Generator) -> str:
    """The metrics of a run of many epochs."""
    epochs, level = np.arange(1, EPOCHS + 1), generator.normal(0, 2)
    values = level - 100 / epochs + generator.normal(0, 0.1, (len(FIGURES), EPOCHS))
    lines = [
        json.dumps({"epoch": int(epoch), **dict(zip(FIGURES, map(float, column), strict=True))})
        for epoch, column in zip(epochs, values.T, strict=True)
    ]
    return "\n".join(lines) + "\n"


def fill_in_all_states(
    amount: Amount, folder: Path, say: Say, models: Sequence[dict[str, Any]] | None = None
) -> int:
    """Run directories as IN_TEN_THOUSAND says; their number."""
    models = _containers() if models is None else models
    seed, groups = 0, {}
    for state, number in IN_TEN_THOUSAND.items():
        rest = amount.recorded - seed
        count = rest if state == "new" else max(1, number * amount.recorded // 10_000)
        groups[state] = [
            {**models[i % len(models)], "seed": i // len(models)} for i in range(seed, seed + count)
        ]
        seed += count
    fill(folder, groups)
    say(f"{seed} run directories")
    return seed


def queue_overhead(amount: Amount, folder: Path, say: Say) -> list[float]:
    """Wall time of a run in the local queue over that of the same run as a command of its own.

    Of either without what comes before its first run: in the queue from the moment that the first run has a process to
    the end of the last, with all that lies between two runs; a command from the moment that it claims its run.
    """
    ratios = []
    for number in range(amount.rounds):
        seeds = range(number * amount.in_queue, (number + 1) * amount.in_queue)
        queued = _in_queue(folder / "queue", seeds)
        bare = statistics.mean(_as_command(folder / "bare", seed) for seed in seeds)
        ratios.append(queued / bare)
        say(f"a run takes {queued:.2f} s in the queue, {bare:.2f} s by itself: {ratios[-1]:.3f}")
    return ratios


def _in_queue(runs_dir: Path, seeds: Sequence[int]) -> float:
    """Seconds for each run of a sweep."""
    overrides = [
        *SMALL,
        f"runs_dir={runs_dir}",
        f"seed={','.join(map(str, seeds))}",
        "hydra.launcher.workers=1",
    ]
    command = [sys.executable, "launch.py", "-m", *overrides]
    printed: list[tuple[float, str]] = []
    with subprocess.Popen(
        command, cwd=SOURCE, stderr=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            printed.append((time.perf_counter(), line))
    began = [at for at, line in printed if line.startswith("started: ")]
    ended = [at for at, line in printed if line.startswith("done ")]
    if process.returncode or not len(began) == len(ended) == len(seeds):
        raise RuntimeError(f"{' '.join(command)}: {''.join(line for _, line in printed)}")
    return (ended[-1] - began[0]) / len(seeds)


def _as_command(runs_dir: Path, seed: int) -> float:
    """Seconds of one run, from its claim on."""
    seconds("launch.py", *SMALL, f"runs_dir={runs_dir}", f"seed={seed}")
    ended = time.time()
    claims = runs_dir.glob(f"*-s{seed}-*/attempts/1/claim.json")
    return ended - next(claims).stat().st_mtime


def tracking_overhead(amount: Amount, folder: Path, say: Say) -> list[float]:
    """Time of a run that is mirrored to Weights & Biases, offline, over that of the same run without a mirror.

    From the claim of a run to the end of the command, which waits for the mirror; it also reports the processor time of
    each command. Each run computes with one thread, so that its mirror has a processor where there are two; for one,
    start it with `taskset -c 0`.
    """
    ratios = []
    for number in range(amount.rounds):
        took = _time_trackers(folder, number, amount.tracked_epochs)
        mirrored, bare = (
            _since_claim(folder / tracker, number, took[tracker]) for tracker in ("wandb", "none")
        )
        ratios.append(mirrored / bare)
        say(
            f"{amount.tracked_epochs} epochs take {mirrored:.2f} s with a mirror, {bare:.2f} s without: "
            f"{ratios[-1]:.3f}; processor {took['wandb'].processor:.1f} s, mirror included, and "
            f"{took['none'].processor:.1f} s"
        )
    return ratios


def _time_trackers(folder: Path, seed: int, epochs: int) -> dict[str, Took]:
    """Time and memory by tracker. The one that begins changes from round to round."""
    arguments = ["launch.py", *SMALL, f"trainer.epochs={epochs}", f"seed={seed}"]
    took = in_turns(
        {
            tracker: [sys.executable, *arguments, f"tracker={tracker}", f"runs_dir={folder / tracker}"]
            for tracker in (("none", "wandb") if seed % 2 else ("wandb", "none"))
        },
        _environment() | {"WANDB_MODE": "offline"},
    )
    (run,) = (folder / "wandb").glob(f"*-s{seed}-*")
    notes = read_json(run / "tracking" / "wandb-offline.json") or {}
    if any((folder / "none").glob("*/tracking")) or notes.get("sent", 0) <= epochs:  # each, and the results
        raise RuntimeError(
            f"{folder}: expected a whole mirror with tracker=wandb, and none with tracker=none"
        )
    return took


def _since_claim(runs_dir: Path, seed: int, took: Took) -> float:
    """Seconds."""
    (claim,) = runs_dir.glob(f"*-s{seed}-*/attempts/1/claim.json")
    return took.between(claim.stat().st_mtime, math.inf)


def _rounds(amount: Amount, say: Say, once: Callable[[], float]) -> Iterator[float]:
    for number in range(1, amount.rounds + 1):
        took = once()
        say(f"round {number}/{amount.rounds}: {took:.2f} s")
        yield took


def seconds(*arguments: str, expect: str = "") -> float:
    """Seconds of a whole command of Python, start to end. RuntimeError: it fails, or does not print ``expect``."""
    begin = time.perf_counter()
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, env=_environment())
    took = time.perf_counter() - begin
    if done.returncode or expect not in done.stdout + done.stderr:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return took


def _environment() -> dict[str, str]:
    """No GPU, so that every machine does the same work; nothing is mirrored, but where that is what is measured."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"}


def sweep_of(runs: int, runs_dir: Path) -> list[str]:
    """The arguments of a sweep of five models and as many seeds as it takes."""
    models, seeds = ",".join(MODELS), runs // len(MODELS)
    return ["-m", "dataset=digits", f"model={models}", f"seed=range(0,{seeds})", f"runs_dir={runs_dir}"]


def _containers() -> list[dict[str, Any]]:
    return [compose([f"model={model}", "dataset=digits"]) for model in MODELS]


def fill(runs_dir: Path, groups: dict[str, list[dict[str, Any]]]) -> None:
    """Run directories of these configurations, which stand as the names of the groups say, and their queues.

    The first of a model in a group is recorded by the platform; the others are its copies under other ids, which
    are not flushed to disk one by one.
    """
    originals: dict[
        tuple[str, str], tuple[dict[str, Any], dict[str, str]]
    ] = {}  # by state, and all but the seed
    for state, containers in groups.items():
        for container in containers:
            kind = state, json.dumps({**container, "seed": None})
            if kind not in originals:
                originals[kind] = container, _content(_record_run(runs_dir, container, state))
            else:
                _copy(runs_dir, container, *originals[kind])
    waiting = [state for state in ("running", "new") if state in groups]
    for states in ([state for state in groups if state not in waiting], waiting):
        runs = [Waiting(run_id(c), 0) for state in states for c in groups[state]]
        labels = {run.run_id: run.run_id for run in runs}
        if runs:
            queue = queues.create(
                runs_dir, kind="local", sweep="scale", code=SOURCE, runs=runs, settings={"labels": labels}
            )
            if states != waiting:
                queue.end("ended")


def _record_run(runs_dir: Path, container: dict[str, Any], state: str) -> Path:
    """A run that has come so far."""
    run = RunDirectory.create(runs_dir, run_id(container), container)
    if state == "new":
        return run.path
    attempt = run.claim()
    attempt.log.write_text("as a run tells\n")
    for epoch in range(1, 61):
        run.append_metrics({"epoch": epoch, "train/elbo_nats": -1.0, "validation/elbo_nats": -1.0})
    attempt.heartbeat({"epoch": 60, "epochs": 60, "step": 600, "elbo": -1.0})
    if state == "running":
        return run.path
    if state == "killed":  # the process of the claim is another by now
        claim = attempt.directory / "claim.json"
        claim.write_text(claim.read_text().replace('"process_start": ', '"process_start": 1'))
        return run.path
    errors = {"failed": RuntimeError("the loss is NaN in step 600"), "stopped": Interrupted(15)}
    try:
        with attempt:
            if state in errors:
                raise errors[state]
            _write_images(run.path)
            run.write_results(_results(container))
    except (RuntimeError, Interrupted):
        pass
    return run.path


def _results(container: dict[str, Any]) -> dict[str, Any]:
    """Results with as many metrics as a run that was evaluated by two proposals."""
    of_a_proposal = {
        **{"mean": -1.0, "standard_error": 0.1, "num_samples": 5000, "num_images": IMAGES, "elbo": -1.5},
        **{"elbo_standard_error": 0.1, "ess_median": 150.0, "ess_min": 1.5, "k_hat_limit": 0.7},
        **{"k_hat_unreliable": 0.04, "k_hat_unknown": 0, "monte_carlo_error_median": 0.08},
        **{"samples_mean": 5000.0, "samples_for_a_tenth": 3000.0, "mean_in_model_space": -1.0},
        "mode_search": dict.fromkeys(("steps_mean", "steps_max", "converged", "stalled", "unconverged"), 9),
    }
    gaps = (
        "num_images",
        "elbo",
        "optimal_elbo",
        "log_likelihood",
        "approximation",
        "amortisation",
        "iterations",
    )
    return {
        "run_id": run_id(container),
        **{
            section: container[section]["name"]
            for section in ("model", "dataset", "output_dist", "optimizer")
        },
        **{"seed": container["seed"], "best_epoch": 60, "epochs": 60, "selection": "validation"},
        "test": {
            **{"elbo": -1.5, "elbo_standard_error": 0.1, "bits_per_dim": None, "uniform_bits_per_dim": 4.1},
            "log_likelihood": {"own": of_a_proposal, "fitted": of_a_proposal},
            "gaps": dict.fromkeys(gaps, 1.25),
        },
        "validation": {"elbo": -1.6},
        "cost": {
            **{"train_seconds": 10.0, "seconds_per_epoch": 0.2, "evaluate_seconds": 5.0},
            "seconds_by_proposal": {"own": 2.5, "fitted": 2.5},
            **{"peak_memory_bytes": 500_000_000, "parameters": 18_000},
        },
        "environment": {
            "code": {
                "hash": "0123456789ab",
                "commit": "0123456789abcdef0123456789abcdef01234567",
                "changed": False,
            },
            **{"python": "3.11", "torch": "2.14", "device": "cpu, 1 threads", "threads": 1, "host": "here"},
        },
    }


def _write_images(run: Path) -> None:
    """The arrays that are compared image by image."""
    values = np.random.default_rng(zlib.crc32(run.name.encode())).normal(-1, 2, size=(2, IMAGES))
    np.savez(run / ARRAYS, log_likelihood=values[0], log_likelihood_fitted=values[1])


def _content(run: Path) -> dict[str, str]:
    files = [file for file in run.rglob("*") if file.is_file()]
    return {str(file.relative_to(run)): file.read_text() for file in files if file.suffix != ".npz"}


def _copy(
    runs_dir: Path, container: dict[str, Any], original: dict[str, Any], content: dict[str, str]
) -> None:
    """``original`` is the configuration of the run that ``content`` belongs to; they differ in the seed."""
    new_id, old_id = run_id(container), run_id(original)
    seed, old_seed = f"\nseed: {container['seed']}\n", f"\nseed: {original['seed']}\n"
    (runs_dir / new_id / "attempts" / "1").mkdir(parents=True)
    if len(content) == 2:  # as created
        (runs_dir / new_id / "attempts" / "1").rmdir()
    for name, text in content.items():
        (runs_dir / new_id / name).write_text(text.replace(old_id, new_id).replace(old_seed, seed))
    if "results.json" in content:
        _write_images(runs_dir / new_id)


SCALE = (
    Scale("plan-1000", "dry_run=true of 1,000 new runs", plan, 30),
    Scale("status-10000", "vlae status of 10,000 runs", status, 2),
    Scale("collect-10000", "the rows of 10,000 runs", collect_runs, 5),
    Scale("table-10000", "the table of these rows", table, 1),
    Scale("relaunch-1000", "the launch of 1,000 runs that are done", relaunch, 40),
    Scale("report-500", "a report of 500 runs opens in a browser", open_report, 2),
    Scale("report-500-size", "the size of that file", report_size, 15, "MB"),
    Scale("report-500-written", "vlae report, which writes it", report_written, 30),
    Scale("tracking-overhead", "a run with a mirror over one without", tracking_overhead, 1.03, "x"),
    Scale("queue-overhead", "a run in the local queue beside the bare run", queue_overhead, 1.10, "x"),
)
