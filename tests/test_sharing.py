"""A training is computed once: a run that takes over epochs and scores of others ends as if it had trained alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sharing
import torch

import vlae
from vlae.config.schema import Trainer
from vlae.estimation.importance import Evaluation
from vlae.runs import checkpoint
from vlae.runs.directory import RunDirectory
from vlae.runs.trainings import End, Usable, end_of, usable_of
from vlae.system.disk import RecordError

MODELS = ("vae", "savae", "hf", "iaf", "vlae")


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_run_that_takes_over_ends_as_one_that_trained_alone(model):
    done = subprocess.run(
        [sys.executable, sharing.__file__, model], text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    epochs = {"shorter": 2, "equal": 4, "longer": 4}
    expected = [f"{case} {moment} True {epochs[case]} True" for case in epochs for moment in sharing.MOMENTS]
    assert done.stdout.splitlines() == expected


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
    state["environment"]["torch"] = "1.0.0"
    checkpoint.save(source / "checkpoints", state)
    other, results = run(tmp_path, "trainer.epochs=1", "evaluate.num_samples=8")
    assert results["taken_over"]["training"]["environment"]["torch"] == "1.0.0"
    assert "was trained with torch 1.0.0" in (other / "attempts/1/log.txt").read_text()


def test_whole_groups_are_taken():
    found = Evaluation.empty(10)
    found.done, found.group, found.seconds = 10, 4, 5.0
    found.elbo[:] = torch.arange(10.0)
    assert Evaluation.empty(20).with_first_of(found).done == 8
    assert Evaluation.empty(5).with_first_of(found).done == 4
    assert Evaluation.empty(10).with_first_of(found).done == 10
    assert Evaluation.empty(20).with_first_of(found).seconds == 4.0
