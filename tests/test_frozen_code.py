"""The frozen code: all of it, as it was, found by its content."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import vlae
from vlae import code, files
from vlae.launching.sweeps import remember
from vlae.launching.turns import turn
from vlae.record import RecordError, RunDirectory
from vlae.train import Training


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small project under git, which is taken for the one that is being executed by a process that began now."""
    root = tmp_path / "project"
    (root / "vlae").mkdir(parents=True)
    root.joinpath("launch.py").write_text("print(1)\n")
    root.joinpath("vlae", "model.py").write_text("x = 1\n")
    root.joinpath(".gitignore").write_text("runs/\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        git(root, *words)
    monkeypatch.setattr(code, "SOURCE", root)
    code.executed.cache_clear()
    yield root
    code.executed.cache_clear()


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", root, *who, *words], check=True)


def test_it_is_what_git_tracks_and_would_add_as_it_is_now(checkout, tmp_path):
    checkout.joinpath("vlae", "model.py").write_text("x = 2\n")
    checkout.joinpath("vlae", "mine.py").write_text("y = 1\n")
    checkout.joinpath("launch.py").unlink()
    (checkout / "runs").mkdir()
    checkout.joinpath("runs", "big.pt").write_text("no code")
    frozen = code.freeze(tmp_path / "runs")
    assert frozen.parent == tmp_path / "runs" / ".code"
    names = {file.relative_to(frozen).as_posix() for file in frozen.rglob("*") if file.is_file()}
    assert names == {".gitignore", "vlae/model.py", "vlae/mine.py", ".commit.json"}
    assert frozen.joinpath("vlae", "model.py").read_text() == "x = 2\n"
    told = json.loads(frozen.joinpath(".commit.json").read_text())
    assert told["changed"]
    assert "-x = 1\n+x = 2" in told["difference"]
    assert told["added"] == ["vlae/mine.py"]


def test_it_is_found_by_its_content(checkout, tmp_path):
    first = code.freeze(tmp_path / "runs")
    assert code.freeze(tmp_path / "runs") == first
    checkout.joinpath("launch.py").write_text("print(2)\n")
    second = code.freeze(tmp_path / "runs")
    assert second != first
    assert code.description() == {
        "hash": second.name,
        "commit": code.description()["commit"],
        "changed": True,
    }
    checkout.joinpath("launch.py").write_text("print(1)\n")
    assert code.description()["hash"] == first.name
    assert not code.description()["changed"]


def test_a_new_file_alone_is_a_change(checkout):
    checkout.joinpath("vlae", "mine.py").write_text("")
    assert code.description()["changed"]


@pytest.mark.parametrize("with_git", [True, False])
@pytest.mark.parametrize("runs_dir", ["mine", "results/mine", "sweeps/mine"])
def test_neither_runs_nor_notes_are_code_whatever_the_runs_directory_is_called(checkout, runs_dir, with_git):
    if not with_git:
        shutil.rmtree(checkout / ".git")
    runs_dir = checkout / runs_dir
    with turn(runs_dir):
        remember(runs_dir, "s", {}, [])
        frozen = code.freeze(runs_dir)
    told = code.description()
    RunDirectory.create(runs_dir, "a", {})
    checkout.joinpath("notes.txt").write_text("no code")
    assert code.description() == told
    assert code.freeze(runs_dir) == frozen
    names = {file.relative_to(frozen).as_posix() for file in frozen.rglob("*") if file.is_file()}
    assert names - {".gitignore"} == {"launch.py", "vlae/model.py", ".commit.json"}


def test_a_module_elsewhere_is_code_once_git_knows_of_it(checkout, tmp_path):
    checkout.joinpath("mine.py").write_text("y = 1\n")
    assert not (code.freeze(tmp_path / "runs") / "mine.py").exists()
    git(checkout, "add", "-N", "mine.py")
    assert (code.freeze(tmp_path / "runs") / "mine.py").read_text() == "y = 1\n"


def test_a_link_is_copied_as_what_it_leads_to_and_left_out_where_that_is_nothing(checkout, tmp_path):
    tmp_path.joinpath("shared.py").write_text("z = 1\n")
    for name, target in (("linked.py", "shared.py"), ("dangling.py", "nothing.py"), ("round.py", "round.py")):
        place = checkout / "vlae"
        place.joinpath(name).symlink_to(place / name if name == "round.py" else tmp_path / target)
    git(checkout, "add", "-A")
    frozen = code.freeze(tmp_path / "runs")
    assert {file.name for file in (frozen / "vlae").iterdir()} == {"model.py", "linked.py"}
    assert not (frozen / "vlae" / "linked.py").is_symlink()
    assert (frozen / "vlae" / "linked.py").read_text() == "z = 1\n"


def test_a_file_that_vanishes_after_it_was_listed_is_left_out(checkout, tmp_path, monkeypatch):
    real = code.read_bytes

    def read_bytes(path):
        if path.name == "model.py":
            path.unlink()
        return real(path)

    monkeypatch.setattr(code, "read_bytes", read_bytes)
    frozen = code.freeze(tmp_path / "runs")
    assert frozen.joinpath("launch.py").exists()
    assert not frozen.joinpath("vlae").exists()


def test_a_file_that_cannot_be_read_is_named(checkout, tmp_path, monkeypatch):
    """Permission bits do not bind root, so the refusal is the test's."""

    def refuse(path, *words, **keys):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open", refuse, raising=False)
    for act in (code.description, lambda: code.freeze(tmp_path / "runs")):
        with pytest.raises(RecordError, match=r"cannot read \S+/project/\S+: Permission denied"):
            act()
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_results_name_the_code_that_was_there_when_the_run_began(checkout, tmp_path, monkeypatch):
    before = code.description()
    real = Training.run

    def run(training, *arguments):
        real(training, *arguments)
        checkout.joinpath("vlae", "model.py").write_text("edited\n")

    monkeypatch.setattr(Training, "run", run)
    tiny = ("model=vae", "dataset.sizes.latent_dim=2", "dataset.sizes.hidden_dims=[3]", "trainer.epochs=1")
    fast = ("evaluate.num_samples=2", "evaluate.proposals=[own]", "evaluate.num_gap_images=0", "device=cpu")
    results = vlae.run([*tiny, *fast, f"runs_dir={tmp_path / 'runs'}"], quiet=True)
    assert code.description() != before
    assert results["environment"]["code"] == before


def test_frozen_code_freezes_to_itself_and_knows_what_it_was(checkout, tmp_path, monkeypatch):
    told = code.description()
    frozen = code.freeze(tmp_path / "runs")
    monkeypatch.setattr(code, "SOURCE", frozen)
    assert code.freeze(tmp_path / "elsewhere") == frozen
    assert code.description() == told
    (frozen / "vlae" / "__pycache__").mkdir()  # what is compiled there changes nothing
    assert code.description() == told


def test_without_git_it_is_what_the_project_consists_of(checkout, tmp_path):
    shutil.rmtree(checkout / ".git")
    (checkout / "vlae" / "__pycache__").mkdir()
    checkout.joinpath("vlae", "__pycache__", "model.pyc").write_text("")
    checkout.joinpath("notes.txt").write_text("")
    frozen = code.freeze(tmp_path / "runs")
    names = {file.relative_to(frozen).as_posix() for file in frozen.rglob("*") if file.is_file()}
    assert names == {"launch.py", "vlae/model.py", ".commit.json"}
    assert code.description()["commit"] is None


def test_a_copy_that_could_not_be_finished_is_not_there(checkout, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RecordError, match="No space left"):
        code.freeze(tmp_path / "runs")
    assert [p for p in (tmp_path / "runs" / ".code").rglob("*") if p.is_file()] == []
