"""TensorBoard: the event files of a run, read by its own reader, and the choice of trackers."""

import importlib.util
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from recorded import container, results

from vlae.config.compose import Composer, compose, override, validate
from vlae.config.overrides import CONF
from vlae.config.problems import ConfigError
from vlae.config.run_id import run_id
from vlae.runs.directory import RunDirectory
from vlae.trackers.run_history import RunHistory
from vlae.trackers.tensorboard_mirror import EventFiles

TRACKERS = ("none", "tensorboard", "wandb")


class FakeRun:
    """A run directory that is written without training."""

    def __init__(self, runs_dir):
        cfg = container("model=vae", "tracker=tensorboard")
        self.cfg, self.directory = cfg, RunDirectory.create(runs_dir, run_id(cfg), cfg)

    def epochs(self, first, last):
        for epoch in range(first, last + 1):
            line = {"epoch": epoch, "train/elbo_nats": -100.0 / epoch, "validation/elbo_nats": -50.0 / epoch}
            self.directory.append_metrics(line)
            if epoch % 2 == 0:
                self.picture(f"epoch-{epoch:06d}/reconstructions", epoch)

    def picture(self, name, grey):
        file = self.directory.path / "images" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5), grey, np.uint8)).save(file)

    def complete(self):
        self.picture("prior_samples", 99)
        self.directory.write_results(results(self.cfg, {"own": np.array([-1.0, -2.0, -3.0])}) | {"epochs": 6})

    def mirror(self):
        """One look of the process beside an attempt."""
        self.mirror_with_looks_after(lambda: None)

    def mirror_with_looks_after(self, *steps):
        mirror = EventFiles(RunHistory(self.directory))
        mirror.start()
        for step in steps:
            step()
            mirror.catch_up()
        mirror.finish()

    def read(self):
        """The content that TensorBoard's own reader finds."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its imports
            from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        found = EventAccumulator(str(self.directory.path / "tracking" / "tensorboard"))
        return found.Reload()


@pytest.fixture
def run(tmp_path):
    pytest.importorskip("tensorboardX")
    return FakeRun(tmp_path)


def steps(events):
    return [event.step for event in events]


@pytest.mark.slow
def test_metrics_and_pictures_are_logged_by_epoch(run):
    run.epochs(1, 6)
    run.complete()
    run.mirror()
    found = run.read()
    curve = found.Scalars("train/elbo_nats")
    assert [(event.step, event.value) for event in curve] == [
        (epoch, pytest.approx(-100.0 / epoch)) for epoch in range(1, 7)
    ]
    assert steps(found.Scalars("validation/elbo_nats")) == [1, 2, 3, 4, 5, 6]
    assert "epoch" not in found.Tags()["scalars"]
    assert steps(found.Images("images/reconstructions")) == [2, 4, 6]
    last = found.Images("final/prior_samples")[0]
    assert (last.step, last.width, last.height) == (6, 5, 4)


def test_hyperparameters_are_logged_with_test_metrics(run):
    run.epochs(1, 6)
    run.complete()
    run.mirror()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.plugins.hparams import metadata
    found = run.read()
    content = found.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    given = metadata.parse_session_start_info_plugin_data(content).hparams
    assert given["model/name"].string_value == "vae"
    assert given["optimizer/lr"].number_value == 5e-4
    assert given["seed"].number_value == 0
    (event,) = found.Scalars("test/log_likelihood/own/mean")
    assert (event.step, event.value) == (6, -2.0)


def test_two_attempts_leave_one_consistent_set(run):
    run.epochs(1, 5)
    size = len(b"".join((run.directory.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:3]))
    run.mirror()
    run.directory.truncate_metrics(size)  # the second one goes back to its checkpoint
    run.epochs(4, 6)
    run.complete()
    run.mirror()
    found = run.read()
    assert steps(found.Scalars("train/elbo_nats")) == [1, 2, 3, 4, 5, 6]
    assert steps(found.Images("images/reconstructions")) == [2, 4, 6]
    assert len(list((run.directory.path / "tracking" / "tensorboard").glob("events.*"))) == 1


def test_a_mirror_that_follows_adds_each_epoch_once(run):
    run.mirror_with_looks_after(
        lambda: None,
        lambda: run.epochs(1, 2),
        lambda: run.epochs(3, 4),
        lambda: None,
        lambda: run.epochs(5, 6),
    )
    assert steps(run.read().Scalars("train/elbo_nats")) == [1, 2, 3, 4, 5, 6]
    assert steps(run.read().Images("images/reconstructions")) == [2, 4, 6]


# --- the choice of trackers -------------------------------------------------------------------------------------------


def problems_of(*overrides):
    with pytest.raises(ConfigError) as caught:
        validate(compose(overrides))
    return caught.value.problems


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "wandb", "tensorboard"),
    [
        ("none", False, False),
        ("wandb", True, False),
        ("tensorboard", False, True),
        ("[wandb,tensorboard]", True, True),
        ("[tensorboard,wandb]", True, True),
        ("['tensorboard']", False, True),
        ("[]", False, False),
    ],
)
def test_one_tracker_or_several_or_none_are_chosen(chosen, wandb, tensorboard):
    pytest.importorskip("tensorboardX")
    checked = validate(compose([f"tracker={chosen}"])).tracker
    assert (checked.wandb, checked.tensorboard) == (wandb, tensorboard)


@pytest.mark.slow
def test_all_choices_are_those_of_one_run():
    ids = {run_id(compose([f"tracker={chosen}"])) for chosen in (*TRACKERS, "[wandb,tensorboard]")}
    assert len(ids) == 1


@pytest.mark.slow
def test_a_sweep_composes_several_trackers_as_a_run_does():
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    def load(chosen):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=chosen, return_hydra_config=True)

    words = ["tracker=[wandb,tensorboard]", "seed=1"]
    assert Composer(load)(words) == compose(words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "tracker=wnadb",
            "tracker: no choice 'wnadb'; did you mean wandb? (choices: none, tensorboard, wandb)",
        ),
        (
            "tracker=[wandb,tensorbord]",
            "tracker: no choice 'tensorbord'; did you mean tensorboard? (choices: ",
        ),
        ("tracker=[wandb,3]", "tracker: no choice '3' (choices: none, tensorboard, wandb)"),
        ("tracker=null", "tracker: no choice 'null' (choices: "),
        ("tracker=wandb,tensorboard", "tracker=wandb,tensorboard: several values: add -m"),
        (
            "model=[vae,hf]",
            "model: expected one choice, got the list [vae,hf]; one run for each is model=vae,hf with -m",
        ),
        (
            "tracker.mode=on",
            "tracker.mode: expected one of 'auto', 'online', 'offline' or 'disabled', got 'on'",
        ),
        ("tracker.mode=online_", "tracker.mode: expected one of 'auto', 'online', 'offline' or 'disabled'"),
        ("tracker.wandb=ja", "tracker.wandb: expected true or false, got 'ja'"),
        ("tracker.tag=x", "tracker.tag: unknown key; did you mean tracker.tags?"),
        ("tracker.tags=x", "tracker.tags: expected a list such as"),
        ("tracker.project=''", "tracker.project: expected 1 to 128 characters without / \\ # ? % :, got ''"),
        ("tracker.images_every=0", "tracker.images_every: expected 1 or more or null, got 0"),
    ],
)
def test_a_wrong_tracker_is_refused_with_the_choices(override, said):
    [problem] = problems_of(override)
    assert problem.startswith(said)


@pytest.mark.slow
def test_tensorboard_without_its_library_is_refused_early(tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else there(name)
    )
    for chosen in ("tensorboard", "[wandb,tensorboard]"):
        [problem] = problems_of(f"tracker={chosen}")
        assert problem.startswith(
            "tracker.tensorboard: needs tensorboardX, which is not installed: pip install"
        )
    validate(compose(["tracker=wandb"]))
    frozen = compose(["tracker=tensorboard"])  # of a run from another machine, which is only looked at
    validate(frozen, to_run=False)
    assert override(frozen, ["seed=3"], ["seed"]) == {**frozen, "seed": 3}
    problems = problems_of("tracker=tensorboard", "trainer.epoch=3")
    assert [problem.partition(":")[0] for problem in problems] == ["trainer.epoch", "tracker.tensorboard"]


@pytest.mark.slow
def test_the_command_without_tensorboard_leaves_nothing(tmp_path):
    code = "import sys, runpy; sys.modules['tensorboardX'] = None; sys.argv = sys.argv[1:]; "
    code += "sys.path.insert(0, '.'); runpy.run_path('launch.py', run_name='__main__')"
    for words in ([], ["-m", "seed=0,1"]):
        command = [
            sys.executable,
            "-c",
            code,
            "launch.py",
            *words,
            "tracker=tensorboard",
            f"runs_dir={tmp_path}/runs",
        ]
        process = subprocess.run(
            command, cwd=CONF.parent, capture_output=True, text=True, timeout=100, check=False
        )
        assert process.returncode == 2
        assert "tracker.tensorboard: needs tensorboardX" in process.stderr
        assert "Traceback" not in process.stderr
        assert list(tmp_path.rglob("config.yaml")) == []
