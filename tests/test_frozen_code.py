"""The frozen code: all of it, as it was, found by its content."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from vlae import code


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small project under git, which is taken for the one that is being executed."""
    root = tmp_path / "project"
    (root / "vlae").mkdir(parents=True)
    root.joinpath("launch.py").write_text("print(1)\n")
    root.joinpath("vlae", "model.py").write_text("x = 1\n")
    root.joinpath(".gitignore").write_text("runs/\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        git(root, *words)
    monkeypatch.setattr(code, "SOURCE", root)
    return root


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
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(RuntimeError, match="No space left"):
        code.freeze(tmp_path / "runs")
    assert [p for p in (tmp_path / "runs" / ".code").rglob("*") if p.is_file()] == []
