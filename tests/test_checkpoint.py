"""Laws of checkpoints: one good one at every instant, damage is found, nothing is ever executed."""

import errno
import io
import os
import pickle
import subprocess
import sys
import textwrap
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from vlae.runs import checkpoint
from vlae.system.disk import RecordError


def state_of(step: int) -> dict:
    weights = OrderedDict(weight=torch.full((5, 4), float(step)), bias=torch.arange(3, dtype=torch.float64))
    moments = {0: {"exp_avg": torch.full((5, 4), -1.0), "step": torch.tensor(float(step))}}
    return {
        "step": step,
        "model": weights,
        "optimizer": {"state": moments, "lr": 5e-4},
        "best": None,
        "name": "ä",
    }


def assert_same(state: dict | None, step: int) -> None:
    assert state is not None
    assert repr(state) == repr(state_of(step))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Step 1 in previous.pt, step 2 in last.pt."""
    for step in (1, 2):
        checkpoint.save(tmp_path / "checkpoints", state_of(step))
    return tmp_path / "checkpoints"


def test_a_saved_checkpoint_is_loaded(folder):
    state, warnings = checkpoint.load(folder)
    assert_same(state, 2)
    assert warnings == []
    assert {path.name for path in folder.iterdir()} == {"last.pt", "previous.pt"}


def test_torch_alone_reads_a_checkpoint(folder):
    for mmap in (False, True):
        assert_same(torch.load(folder / "last.pt", weights_only=True, mmap=mmap), 2)


def test_no_checkpoint_exists_before_the_first(tmp_path):
    assert checkpoint.load(tmp_path / "checkpoints") == (None, [])


def test_checkpoints_of_other_names_are_independent(folder):
    for step in (7, 8):
        checkpoint.save(folder, state_of(step), name="evaluation")
    assert_same(checkpoint.load(folder, name="evaluation")[0], 8)
    assert_same(checkpoint.load(folder)[0], 2)
    names = {"last.pt", "previous.pt", "evaluation.pt", "previous_evaluation.pt"}
    assert {path.name for path in folder.iterdir()} == names
    folder.joinpath("evaluation.pt").write_bytes(b"")
    state, [warning] = checkpoint.load(folder, name="evaluation")
    assert_same(state, 7)
    assert "previous_evaluation.pt" in warning


@pytest.mark.slow
def test_every_flipped_byte_is_detected(folder):
    path = folder / "last.pt"
    content = path.read_bytes()
    for position in [*range(0, len(content), 23), *range(len(content) - 80, len(content))]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        state, warnings = checkpoint.load(folder)
        assert_same(state, 1)
        assert len(warnings) == 1


def test_torch_alone_loads_damaged_weights(folder):
    """The reason for the digest. If this fails one day, torch verifies checksums."""
    path = folder / "last.pt"
    content = path.read_bytes()
    weights = np.full((5, 4), 2.0, dtype=np.float32).tobytes()
    assert content.count(weights) == 1
    path.write_bytes(content.replace(weights, weights[::-1]))
    assert repr(torch.load(path, weights_only=True)) != repr(state_of(2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda content: content[: len(content) // 2],
            "last.pt is damaged: it is not what was written",
        ),
        *((lambda content, cut=cut: content[:-cut], "last.pt is damaged") for cut in (1, 65, 70, 71, 72, 93)),
        (lambda content: content + b"\0", "last.pt is damaged"),
        (lambda content: b"", "last.pt is damaged: it is empty"),
        (lambda content: bytes(len(content)), "last.pt is damaged"),
        (lambda content: b"corrupted file\nby hand\n", "last.pt is damaged"),
        (lambda content: None, "last.pt is missing"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_previous_one(folder, damage, words):
    path = folder / "last.pt"
    content = damage(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    state, [warning] = checkpoint.load(folder)
    assert_same(state, 1)
    assert words in warning
    assert str(path) in warning
    assert warning.endswith(f"Resuming from the checkpoint before it, {folder / 'previous.pt'}")


def test_without_a_good_checkpoint_both_are_named(folder):
    folder.joinpath("last.pt").write_bytes(b"")
    folder.joinpath("previous.pt").write_bytes(folder.joinpath("previous.pt").read_bytes()[:-3])
    with pytest.raises(
        RecordError, match=r"no good checkpoint: \S+last\.pt is damaged.*previous\.pt is damaged"
    ):
        checkpoint.load(folder)
    folder.joinpath("previous.pt").unlink()
    with pytest.raises(RecordError, match=r"last\.pt is damaged.*previous\.pt is missing"):
        checkpoint.load(folder)


def test_a_damaged_checkpoint_does_not_replace_a_good_one(folder):
    folder.joinpath("last.pt").write_bytes(b"damaged")
    checkpoint.save(folder, state_of(3))
    assert_same(torch.load(folder / "previous.pt", weights_only=True), 1)
    assert_same(checkpoint.load(folder)[0], 3)


def test_without_hard_links_the_previous_checkpoint_is_kept(folder, monkeypatch):
    def link(*paths: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    checkpoint.save(folder, state_of(3))
    assert_same(torch.load(folder / "previous.pt", weights_only=True), 2)
    assert_same(checkpoint.load(folder)[0], 3)


@pytest.mark.slow
def test_a_killed_save_leaves_a_good_checkpoint():
    """The state before or the state after, never an older one, and the next save works."""
    script = """
        import os, torch
        from killing import killed_at_every_step
        from test_checkpoint import assert_same, checkpoint, state_of
        torch.set_num_threads(1)

        def prepare(folder):
            for step in (1, 2):
                checkpoint.save(folder, state_of(step))

        def check(folder):
            state, warnings = checkpoint.load(folder)
            assert warnings == []
            assert_same(state, state["step"])
            assert state["step"] in (2, 3)
            checkpoint.save(folder, state_of(4))
            assert_same(checkpoint.load(folder)[0], 4)
            folder.joinpath("last.pt").unlink()
            assert_same(checkpoint.load(folder)[0], state["step"])

        print(killed_at_every_step(prepare, lambda folder: checkpoint.save(folder, state_of(3)), check))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=True)
    assert int(done.stdout) > 6


def test_a_save_that_does_not_fit_changes_no_checkpoint(folder, monkeypatch):
    def replace(*paths: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(RecordError, match=r"cannot write \S*last\S*: No space left on device"):
        checkpoint.save(folder, state_of(3))
    monkeypatch.undo()
    assert_same(checkpoint.load(folder)[0], 2)
    assert {path.name for path in folder.iterdir()} == {"last.pt", "previous.pt"}
    with pytest.raises(RecordError, match="cannot write"):
        checkpoint.save(folder / "last.pt" / "below", state_of(3))


@pytest.mark.parametrize(
    ("value", "named"),
    [(np.float64(1.0), r"state\['best'\]\[1\] is a numpy\.float64"), (Path("x"), r"is a pathlib\.")],
)
def test_a_value_that_cannot_be_loaded_is_not_saved(folder, value, named):
    with pytest.raises(TypeError, match=named):
        checkpoint.save(folder, state_of(3) | {"best": [1, value]})
    assert_same(checkpoint.load(folder)[0], 2)


class Attack:
    """Unpickled, it makes a directory."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def sealed(path: Path) -> None:
    path.write_bytes(checkpoint._seal(io.BytesIO(path.read_bytes())))


def by_torch(attack: object, path: Path) -> None:
    torch.save(attack, path)


def by_torch_and_sealed(attack: object, path: Path) -> None:
    torch.save(attack, path)
    sealed(path)


def by_torch_in_the_old_format(attack: object, path: Path) -> None:
    torch.save(attack, path, _use_new_zipfile_serialization=False)


def by_pickle(protocol: int):
    def write(attack: object, path: Path) -> None:
        path.write_bytes(pickle.dumps(attack, protocol))

    return write


@pytest.mark.parametrize("name", ["last.pt", "previous.pt"])
def test_a_checkpoint_cannot_execute_code(folder, tmp_path, name):
    by_torch_and_sealed({"model": torch.ones(2), "step": Attack(tmp_path / "attacked")}, folder / name)
    if name == "previous.pt":
        folder.joinpath("last.pt").unlink()
    with pytest.raises(RecordError, match=rf"refused: \S+{name} was not written by vlae"):
        checkpoint.load(folder)
    assert not tmp_path.joinpath("attacked").exists()


@pytest.mark.slow
@pytest.mark.parametrize("write", [by_torch, by_torch_in_the_old_format, *map(by_pickle, range(6))])
def test_a_file_of_another_program_counts_as_damaged(folder, tmp_path, write):
    write({"step": Attack(tmp_path / "attacked")}, folder / "last.pt")
    state, [warning] = checkpoint.load(folder)
    assert_same(state, 1)
    assert "last.pt is damaged" in warning
    assert not tmp_path.joinpath("attacked").exists()


def test_only_a_sealed_checkpoint_is_unpickled(folder, monkeypatch):
    content = folder.joinpath("last.pt").read_bytes()
    monkeypatch.setattr(torch, "load", lambda *given, **named: pytest.fail("it was unpickled"))
    for file in (folder / "last.pt", folder / "previous.pt"):
        file.write_bytes(content[:-1] + b"?")
    with pytest.raises(RecordError, match="no good checkpoint"):
        checkpoint.load(folder)
