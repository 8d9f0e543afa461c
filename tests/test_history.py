"""Reading a run for a mirror: each step once, and no part of a file twice."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlae.launching.logs import GrowingLog
from vlae.runs.directory import RunDirectory
from vlae.system.files import NewLines
from vlae.trackers.run_history import Epochs


def line(epoch: int, seconds: float = 0.0) -> bytes:
    return json.dumps({"epoch": epoch, "seconds": seconds, "text": "±"}).encode() + b"\n"


def steps(history: Epochs) -> list[dict]:
    return [step for _, step in history.more()]


def bytes_read() -> int:
    """Bytes that this process has read so far, from any file."""
    return int(Path("/proc/self/io").read_text().split()[1])


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("epoch"), st.integers(0, 40)),  # of whose line so many bytes come late
        st.tuples(st.just("pictures"), st.just(0)),
        st.tuples(st.just("back"), st.integers(0, 8)),
        st.tuples(st.just("look"), st.just(0)),
    ),
    max_size=30,
)


@pytest.mark.slow
@given(ACTIONS)
def test_each_step_is_read_once_and_in_order(tmp_path_factory, actions):
    run = tmp_path_factory.mktemp("run")
    file, images = run / "metrics.jsonl", run / "images"
    history, seen, epochs = Epochs(run), {}, 0
    written = 0

    def look() -> None:
        found = history.more()
        if found and found[0][0] == 0:
            seen.clear()  # they come again from the first one
        for number, step in found:
            assert number == len(seen), "a step was left out, or came twice"
            seen[number] = step

    for action, number in actions:
        if action == "epoch":
            epochs, written = epochs + 1, written + 1
            content = line(epochs, written)
            with file.open("ab", buffering=0) as out:
                out.write(content[: len(content) - number])
                look()
                out.write(content[len(content) - number :])
        elif action == "pictures" and epochs:
            place = images / f"epoch-{epochs:06d}"
            place.mkdir(parents=True, exist_ok=True)
            (place / "samples.png").write_bytes(b"")
        elif action == "back" and epochs:  # an attempt goes back to a checkpoint
            epochs = max(0, epochs - number)
            new = run / "new"
            new.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:epochs]))
            new.replace(file)
        elif action == "look":
            look()
    look()
    assert history.length == len(seen) or epochs == 0
    assert list(seen.values()) == steps(Epochs(run)) or epochs == 0


def test_later_pictures_are_a_step_of_their_own(tmp_path):
    history = Epochs(tmp_path)
    assert history.more() == []
    (tmp_path / "metrics.jsonl").write_bytes(line(1))
    assert [number for number, _ in history.more()] == [0]
    picture = tmp_path / "images" / "epoch-000001" / "samples.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line(2))
    assert [(n, s["epoch"], "images/samples" in s) for n, s in history.more()] == [
        (1, 1, True),
        (2, 2, False),
    ]
    assert history.more() == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux alone counts what is read")
def test_the_cost_of_recording_an_epoch_does_not_grow(tmp_path):
    run = RunDirectory.create(tmp_path, "run", {})
    size = (run.path / "metrics.jsonl").write_bytes(b"".join(map(line, range(1, 50_000))))
    history = Epochs(run.path)
    assert history.length == 0
    before = bytes_read()
    history.more()
    assert bytes_read() - before < 2 * size
    before = bytes_read()
    for epoch in range(50_000, 50_020):
        run.append_metrics({"epoch": epoch})
        assert run.metrics_size() == (run.path / "metrics.jsonl").stat().st_size
        assert len(history.more()) == 1
        assert history.more() == []
    assert bytes_read() - before < 20 * 16_384 < size / 4


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux alone counts what is read")
def test_a_log_is_read_from_the_end_of_the_last_look(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("a" * 1_000_000)
    growing = GrowingLog(log)
    assert len(growing.more()) == 1_000_000
    before, found = bytes_read(), ""
    with log.open("ab", buffering=0) as file:
        for byte in "1 ± 2\n".encode():
            file.write(bytes([byte]))
            found += growing.more()
    assert found == "1 ± 2\n"
    assert bytes_read() - before < 100_000


def test_a_replaced_file_of_the_same_size_is_read_again(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"one\ntwo\n")
    lines = NewLines(file)
    assert lines.more() == (False, [b"one\n", b"two\n"])
    file.write_bytes(b"ONE\nTWO\n")
    os.utime(file, ns=(1, 1))
    assert lines.more() == (True, [b"ONE\n", b"TWO\n"])
    file.unlink()
    assert lines.more() == (True, [])
    assert lines.more() == (False, [])
