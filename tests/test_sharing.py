"""A training is computed once: a run that takes over epochs and scores of others ends as if it had trained alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sharing
import torch
from launching import LAUNCH, Launched, run_command

import vlae
from vlae.config.schema import Evaluate, Trainer
from vlae.estimation.estimators.importance import Evaluation
from vlae.estimation.part_settings import FIT, part_settings
from vlae.report.sources.run_directories import collect_runs
from vlae.runs import checkpoint
from vlae.runs.directory import RunDirectory
from vlae.runs.trainings import End, Sibling, Usable, end_of, first_to_train, sources, usable_of
from vlae.system.disk import RecordError

MODELS = ("vae", "savae", "hf", "iaf", "vlae")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_run_that_takes_over_ends_as_one_that_trained_alone(model):
    done = subprocess.run(
        [sys.executable, sharing.__file__, model], text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    # epochs that are taken over, and whether it trains then
    epochs = {"shorter": (2, True), "equal": (4, False), "longer": (4, False)}
    expected = [
        f"{case} {moment} True {taken} {trains} True"
        for case, (taken, trains) in epochs.items()
        for moment in sharing.MOMENTS
    ]
    assert done.stdout.splitlines() == [*expected, "own 4 False True"]


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_a_whole_run():
    """With its own epochs, those that it took over, or none; never with a false record of where they came from."""
    done = subprocess.run(
        [sys.executable, sharing.__file__, "steps"], text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True [0, 2, 4]"


def lengths():
    for epochs in range(1, 7):
        for patience in (None, 1, 2, 3):
            yield Trainer(epochs=epochs, patience=patience)


CURVES = [[1.0, 3.0, 2.0, 2.5, 4.0, 3.0], [3.0, 2.0, 1.0, 4.0, 4.0, 5.0], [1.0] * 6]


@pytest.mark.parametrize("elbos", CURVES)
def test_the_end_of_a_training_is_that_of_the_loop(elbos):
    for trainer in lengths():
        epoch = best_epoch = 0
        while not trainer.is_over(epoch, best_epoch):
            epoch += 1
            if epoch == 1 or elbos[epoch - 1] > max(elbos[: epoch - 1]):
                best_epoch = epoch
        assert end_of(trainer, elbos) == End(epoch, best_epoch)
        assert end_of(trainer, elbos[: epoch - 1]) is None


@pytest.mark.parametrize("elbos", CURVES)
def test_a_checkpoint_is_used_where_it_has_what_the_run_needs(elbos):
    for trainer in lengths():
        end = end_of(trainer, elbos)
        assert end
        for trained in range(1, 7):
            best_epoch = elbos.index(max(elbos[:trained])) + 1
            expected = Usable(trained, False)  # to be trained on
            if trained >= end.epoch:
                expected = Usable(end.epoch, True) if best_epoch == end.best_epoch else None
            assert usable_of(trainer, elbos, trained) == expected


def sibling(run_id: str, **state: object) -> Sibling:
    state = {"trains": False, "undecided": False, "elbos": (), **state}
    return Sibling(RunDirectory(run_id), "running", **state)


def test_of_two_that_begin_at_once_the_smaller_id_trains():
    """Each sees the other undecided, or about to train: never do both go first, never does each wait for the other."""
    trainer = Trainer(epochs=3)
    for state in ({"undecided": True}, {"trains": True}):
        waits = {
            own: bool(first_to_train([sibling(other, **state)], trainer, own)) for own, other in ("ab", "ba")
        }
        assert waits == ({"a": False, "b": True} if "undecided" in state else {"a": True, "b": True})


@pytest.mark.parametrize(
    ("elbos", "waits", "usable"),
    [
        ((1.0, 2.0), True, None),  # before the end asked for
        ((1.0, 2.0, 3.0), True, Usable(3, True)),  # its checkpoint may not be there yet
        ((1.0, 2.0, 3.0, 2.0), True, Usable(3, True)),
        (
            (1.0, 2.0, 3.0, 4.0),
            False,
            Usable(2, False),
        ),  # its best model is no longer the one that is asked for
    ],
)
def test_a_run_waits_while_the_training_of_another_may_serve(elbos, waits, usable):
    trains = sibling("a", trains=True, elbos=elbos)
    assert (first_to_train([trains], Trainer(epochs=3), "b") is not None) == waits
    assert [source.usable for source in sources([trains], Trainer(epochs=3), 0)] == (
        [usable] if usable else []
    )
    kept = sibling("a", trains=True, elbos=elbos, kept=frozenset([3]))
    assert [s.usable for s in sources([kept], Trainer(epochs=3), 0)] == (
        [Usable(3, True)] if len(elbos) > 2 else []
    )


def test_only_what_can_be_trained_on_is_a_start():
    for changes in ({"has_checkpoint": False}, {"whole": False}):
        assert sources([sibling("a", elbos=(1.0, 2.0), **changes)], Trainer(epochs=3), 0) == []
    best_alone = sibling("a", elbos=(1.0, 2.0), whole=False)
    assert [s.usable for s in sources([best_alone], Trainer(epochs=2), 0)] == [Usable(2, True)]


# --- runs of one directory


def run(place: Path, *overrides: str) -> tuple[Path, dict]:
    results = vlae.run([*sharing.TINY, "model=vae", *overrides, f"runs_dir={place}"], quiet=True)
    return place / results["run_id"], results


def trained_alone(place: Path, *overrides: str) -> dict:
    return sharing.outcome(run(place / "alone", *overrides)[0])


def test_other_scores_need_no_training(tmp_path):
    first, _ = run(tmp_path, "trainer.epochs=2")
    second, results = run(tmp_path, "trainer.epochs=2", "evaluate.num_samples=7")
    assert results["taken_over"]["training"]["run"] == first.name
    assert results["cost"]["train_seconds"] == results["cost"]["train_seconds_taken_over"] > 0
    assert os.path.samefile(first / "checkpoints/last.pt", second / "checkpoints/last.pt")
    assert sharing.outcome(second) == trained_alone(tmp_path, "trainer.epochs=2", "evaluate.num_samples=7")


def test_one_more_proposal_is_scored_alone(tmp_path):
    one, more = "evaluate.proposals=[own,laplace]", "evaluate.proposals=[student_t,own,laplace]"
    first, _ = run(tmp_path, "trainer.epochs=1", one)
    second, results = run(tmp_path, "trainer.epochs=1", more)
    scores = results["taken_over"]["scores"]
    assert {part: (taken["run"], taken["images"]) for part, taken in scores.items()} == {
        "proposals.own": (first.name, 10), "proposals.laplace": (first.name, 10),
    }  # fmt: skip
    cost = results["cost"]
    by_proposal = cost["seconds_by_proposal"]
    assert cost["evaluate_seconds_taken_over"] == pytest.approx(by_proposal["own"] + by_proposal["laplace"])
    assert cost["evaluate_seconds"] >= cost["evaluate_seconds_taken_over"] + by_proposal["student_t"]
    assert sharing.outcome(second) == trained_alone(tmp_path, "trainer.epochs=1", more)


@pytest.mark.parametrize(("before", "after", "shared"), [(70, 140, 64), (140, 70, 64), (128, 200, 128)])
def test_images_that_are_scored_are_not_scored_again(tmp_path, before, after, shared):
    few = ("trainer.epochs=1", "evaluate.num_samples=3", "evaluate.proposals=[own]")
    run(tmp_path, *few, f"evaluate.num_images={before}")
    second, results = run(tmp_path, *few, f"evaluate.num_images={after}")
    assert results["taken_over"]["scores"]["proposals.own"]["images"] == shared  # whole groups
    assert sharing.outcome(second) == trained_alone(tmp_path, *few, f"evaluate.num_images={after}")


def test_scores_with_other_settings_are_not_taken_over(tmp_path):
    run(tmp_path, "trainer.epochs=1")
    for other in ("evaluate.num_samples=8", "evaluate.target_standard_error=1"):
        assert run(tmp_path, "trainer.epochs=1", other)[1]["taken_over"]["scores"] == {}


def test_scores_to_a_target_without_a_pilot_are_not_taken_over(tmp_path):
    """Those of earlier versions, which let an image stop when its samples looked alike, are biased."""
    target = ("trainer.epochs=1", "evaluate.num_samples=400", "evaluate.target_standard_error=0.5")
    run(tmp_path, *target)
    shared = run(tmp_path, *target, "evaluate.proposals=[own]")[1]["taken_over"]["scores"]
    assert set(shared) == {"proposals.own"}
    for path in tmp_path.glob("**/checkpoints"):
        state, _ = checkpoint.load(path, "evaluation")
        for part in state["parts"].values():
            assert part["settings"]["pilot"] == 300
            part["settings"] = {"num_samples": 400, "target_standard_error": 0.5}
        checkpoint.save(path, state, "evaluation")
    assert run(tmp_path, *target, "evaluate.proposals=[own,mixture]")[1]["taken_over"]["scores"] == {}


def test_scores_of_all_samples_are_taken_over_from_earlier_versions():
    settings = part_settings(Evaluate(num_samples=7))["proposals.own"]
    assert settings == {
        "num_samples": 7,
        "target_standard_error": None,
    }  # as they were before there was a pilot


def test_parts_that_begin_with_a_fit_are_not_taken_over_from_another_fit():
    evaluate = Evaluate(proposals=["own", "laplace", "fitted"], bdmc=True)
    fits = {key for key, settings in part_settings(evaluate).items() if settings.get("fit") == FIT}
    assert fits == {"proposals.fitted", "bdmc.proposals.fitted", "bracket"}


def test_force_computes_everything(tmp_path):
    run(tmp_path, "trainer.epochs=1")
    _, results = run(tmp_path, "trainer.epochs=1", "evaluate.num_samples=8")
    assert results["taken_over"]["training"]
    _, results = run(tmp_path, "trainer.epochs=1", "evaluate.num_samples=8", "force=true")
    assert results["taken_over"] == {"training": None, "scores": {}}


def test_another_training_is_not_taken_over(tmp_path):
    run(tmp_path, "trainer.epochs=1")
    for other in ("seed=1", "optimizer.lr=0.2", "trainer.batch_size=99", "model.latent_dim=4"):
        assert run(tmp_path, "trainer.epochs=1", other)[1]["taken_over"]["training"] is None


# --- two at once


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(8, 8), (4, 8), (8, 4)])
def test_two_launches_at_once_train_once(tmp_path, first, second):
    """The one that comes second waits, says so, and takes over what it can."""
    common = [*sharing.TINY, "model=vae", "trainer.batch_size=20", "device=cpu"]
    one = Launched(tmp_path, [*common, f"trainer.epochs={first}"])
    while not any(f.read_text() for f in tmp_path.glob("runs/[!.]*/metrics.jsonl")):
        assert one.exit_status is None
        time.sleep(0.01)
    one.send(signal.SIGSTOP)  # until the second waits: however fast it trains, or slowly the other starts
    [other] = tmp_path.glob("runs/[!.]*")
    two = Launched(tmp_path, [*common, f"trainer.epochs={second}", "evaluate.num_samples=8"])
    while not any("waiting for" in f.read_text() for f in tmp_path.glob("runs/[!.]*/attempts/1/log.txt")):
        assert two.exit_status is None, two.wait()
        time.sleep(0.01)
    one.send(signal.SIGCONT)
    said, output = one.wait(), two.wait()
    assert (one.exit_status, two.exit_status) == (0, 0), said + output
    assert f"waiting for {other.name}, which trains the same model" in output
    [later] = [path for path in tmp_path.glob("runs/[!.]*") if path != other]
    taken = json.loads((later / "results.json").read_text())["taken_over"]["training"]
    expected = sharing.outcome(other)["metrics"][:second]
    assert sharing.outcome(later)["metrics"][: len(expected)] == expected
    kept = (other / "checkpoints" / f"epoch-{second}.pt").is_file()
    if kept or first <= second:  # else the second started when the first was further already
        assert (taken["run"], taken["epochs"]) == (other.name, min(first, second))


@pytest.mark.slow
def test_a_run_that_waits_can_be_interrupted(tmp_path):
    source, _ = run(tmp_path / "runs", "trainer.epochs=1")
    (source / "results.json").unlink()
    with RunDirectory(source).claim():
        RunDirectory(source).write_status(trains=True)
        (source / "metrics.jsonl").unlink()
        waiting = Launched(
            tmp_path, [*sharing.TINY, "model=vae", "trainer.epochs=1", "evaluate.num_samples=8"]
        )
        while not any("waiting for" in f.read_text() for f in tmp_path.glob("runs/[!.]*/attempts/1/log.txt")):
            assert waiting.exit_status is None, waiting.wait()
            time.sleep(0.01)
        waiting.send(signal.SIGTERM)
        assert "interrupted by SIGTERM" in waiting.wait()
        assert waiting.exit_status == 128 + signal.SIGTERM


# --- a sweep scored again


def files(*runs: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for run in runs for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def scored_twice(tmp_path_factory):
    """A sweep of two models, scored again with one more proposal: where it is, and its runs before and after."""
    place = tmp_path_factory.mktemp("sweep")
    sweep = ["-m", "model=vae,hf", "hydra.sweeper.name=s", *sharing.TINY, "trainer.epochs=1"]
    done = run_command(LAUNCH, *sweep, cwd=place)
    assert done.returncode == 0, done.stderr
    before = set(place.glob("runs/[!.]*"))
    kept = files(*before)
    changes = ["evaluate.proposals=[own,fitted,student_t]", "hydra.launcher.workers=1"]
    done = run_command("vlae.cli", "evaluate", "s", *changes, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "starting 2, which train 0 of 2 epochs" in done.stderr
    assert files(*before) == kept
    return place / "runs", before, set(place.glob("runs/[!.]*")) - before


@pytest.mark.slow
def test_a_sweep_is_scored_again_without_training(scored_twice):
    _, before, after = scored_twice
    assert len(after) == len(before) == 2
    for path in after:
        results = json.loads((path / "results.json").read_text())
        assert results["taken_over"]["training"]["epochs"] == results["epochs"] == 1
        assert set(results["taken_over"]["scores"]) == {"proposals.own", "proposals.fitted"}
        assert set(results["test"]["log_likelihood"]) == {"own", "fitted", "student_t"}


@pytest.mark.slow
def test_the_table_of_a_sweep_has_its_newest_scores(scored_twice, command):
    runs, before, after = scored_twice
    metric = ["--metric", "test.log_likelihood.student_t.mean", "--format", "csv"]
    status, text, said = command("table", "s", *metric, "--runs-dir", runs)
    assert (status, text.count("\n")) == (0, 3), said
    status, _, said = command("table", "s", *metric, "--evaluation", 1, "--runs-dir", runs)
    assert (status, "no run has the metric" in said or "--metric" in said) == (2, True), said
    status, _, said = command("table", "s", "--evaluation", 3, "--runs-dir", runs)
    assert (status, "--evaluation: expected a launch of s, one of 1 (" in said) == (2, True), said
    status, text, said = command("status", "s", "--runs-dir", runs)
    assert "this is launch 2 of s; `vlae table s --evaluation N` shows launch 1" in text, said
    frames = [set(vlae.runs("s", runs, evaluation=n)["id"]) for n in (None, 2, 1)]
    assert frames == [{p.name for p in after}, {p.name for p in after}, {p.name for p in before}]


@pytest.mark.slow
def test_newer_scores_count_when_they_are_complete(scored_twice, tmp_path):
    runs, before, after = scored_twice
    shutil.copytree(runs, tmp_path / "runs")
    lost = sorted(path.name for path in after)[0]
    (tmp_path / "runs" / lost / "results.json").unlink()
    found = collect_runs("s", tmp_path / "runs")
    assert {run.id for run in found.runs} == {path.name for path in after}
    by_fitted = found.newest_complete(
        "test.log_likelihood.fitted.mean"
    )  # scored with the same settings before
    assert len({run.id for run in by_fitted.runs} & {path.name for path in before}) == 1
    assert by_fitted.note == "1 of 2 runs as an earlier launch has scored them, with the same settings"
    by_student = found.newest_complete("test.log_likelihood.student_t.mean")  # no earlier launch has it
    assert [run.metrics is None for run in by_student.runs] == [run.id == lost for run in by_student.runs]


# --- what is damaged


def damage_checkpoint(source: Path) -> str:
    file = source / "checkpoints" / "last.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return "is damaged"


def lose_epochs(source: Path) -> str:
    file = source / "metrics.jsonl"
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])
    return "its metrics.jsonl has 1 of 2 epochs"


def claim_another_training(source: Path) -> str:
    """The record says that another run's training is this one."""
    status = json.loads((source / "status.json").read_text())
    (source / "status.json").write_text(json.dumps(status | {"training": RunDirectory(source).training()}))
    config = (source / "config.yaml").read_text()
    (source / "config.yaml").write_text(config.replace("lr: 0.1", "lr: 0.2"))
    return "was edited by hand"


def put_a_foreign_checkpoint(source: Path) -> str:
    file = source / "checkpoints" / "last.pt"
    state = torch.load(file, weights_only=True)
    checkpoint.save(file.parent, {**state, "training": "0" * 16})
    return "a checkpoint of the training 0000000000000000"


@pytest.mark.parametrize(
    "damage", [damage_checkpoint, lose_epochs, claim_another_training, put_a_foreign_checkpoint]
)
def test_what_is_damaged_is_not_taken_over(damage, tmp_path, capsys):
    source, _ = run(tmp_path, "trainer.epochs=2")
    reason = damage(source)
    other, results = run(tmp_path, "trainer.epochs=2", "evaluate.num_samples=8")
    assert results["taken_over"]["training"] is None
    log = (other / "attempts/1/log.txt").read_text()
    assert f"nothing is taken over from {source.name}: " in log
    assert reason in log
    assert sharing.outcome(other) == trained_alone(tmp_path, "trainer.epochs=2", "evaluate.num_samples=8")


def test_a_run_that_claims_another_training_is_refused(tmp_path):
    first, _ = run(tmp_path, "trainer.epochs=1")
    status = json.loads((first / "status.json").read_text())
    (first / "status.json").write_text(json.dumps(status | {"training": "0" * 16}))
    with pytest.raises(
        RecordError, match=r"training: expected [0-9a-f]{16}, which follows from config.yaml, got 0"
    ):
        RunDirectory(first).config()


def test_without_hard_links_the_checkpoint_is_copied(tmp_path, monkeypatch):
    first, _ = run(tmp_path, "trainer.epochs=1")

    def refuse(*paths: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    second, results = run(tmp_path, "trainer.epochs=1", "evaluate.num_samples=8")
    assert results["taken_over"]["training"]["run"] == first.name
    assert not os.path.samefile(first / "checkpoints/last.pt", second / "checkpoints/last.pt")
    assert (first / "checkpoints/last.pt").read_bytes() == (second / "checkpoints/last.pt").read_bytes()


def test_another_version_of_torch_is_a_caution(tmp_path):
    source, _ = run(tmp_path, "trainer.epochs=1")
    state = torch.load(source / "checkpoints/last.pt", weights_only=True)
    [pair] = state["progress"]["trained_with"]
    pair["torch"] = "1.0.0"
    checkpoint.save(source / "checkpoints", state)
    other, results = run(tmp_path, "trainer.epochs=1", "evaluate.num_samples=8")
    assert results["environment"]["training"]["torch"] == "1.0.0" != results["environment"]["torch"]
    assert "was trained with torch 1.0.0 (this is" in (other / "attempts/1/log.txt").read_text()


def test_who_has_scored_is_known_along_a_chain(tmp_path):
    """The second run takes scores of other code from the first, and the third takes them from the second."""
    first, _ = run(tmp_path, "trainer.epochs=1")
    folder = first / "checkpoints"
    state = torch.load(folder / "evaluation.pt", weights_only=True)
    for part in state["parts"].values():
        part["scored_with"] = {"code": "0123456789ab", "torch": "1.0.0"}
    checkpoint.save(folder, state, "evaluation")
    proposals = "own,laplace,student_t", "own,laplace,student_t,mixture"
    runs = [run(tmp_path, "trainer.epochs=1", f"evaluate.proposals=[{names}]") for names in proposals]
    shutil.rmtree(first)
    for _, results in [*runs, run(tmp_path, "trainer.epochs=1", "evaluate.proposals=[own,mixture]")]:
        own = results["taken_over"]["scores"]["proposals.own"]
        assert own["scored_with"] == {"code": "0123456789ab", "torch": "1.0.0"}
        assert "0123456789ab" in results["environment"]["scoring"]["code"]


def test_whole_groups_are_taken():
    found = Evaluation.empty(10)
    found.done, found.group, found.seconds = 10, 4, 5.0
    found.elbo[:] = torch.arange(10.0)
    assert Evaluation.empty(20).with_first_of(found).done == 8
    assert Evaluation.empty(5).with_first_of(found).done == 4
    assert Evaluation.empty(10).with_first_of(found).done == 10
    assert Evaluation.empty(20).with_first_of(found).seconds == 4.0
