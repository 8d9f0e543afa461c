"""Files of a run are whole, or as they were."""

import random
import re
import time

import pytest

from run_directory.example import CONFIG, RUN_ID, first_line, in_python, output_of, visible_and_hidden
from vlae.runs.attempts import refuse_if_held
from vlae.runs.directory import RunDirectory, all_runs, find, rerun_directory
from vlae.runs.rerun import recover
from vlae.system.disk import RecordError
from vlae.system.files import write_atomically


@pytest.mark.slow
def test_a_killed_write_leaves_old_or_new_content(tmp_path):
    path, contents = tmp_path / "file", [bytes([letter]) * 300_000 for letter in b"ab"]
    write_atomically(path, contents[0])
    script = """
        import sys
        from vlae.system.files import write_atomically
        print("ready", flush=True)
        while True:
            for letter in b"ba":
                write_atomically(sys.argv[1], bytes([letter]) * 300_000)
    """
    seen: list[bytes] = []
    chance = random.Random(0)
    while len(seen) < 12 or len(set(seen)) < 2:  # two: it was killed amid its work
        writer = in_python(script, path)
        assert first_line(writer) == "ready\n"
        time.sleep(chance.uniform(0, 0.05))
        writer.kill()
        writer.communicate()
        assert path.read_bytes() in contents
        seen.append(path.read_bytes()[:1])


@pytest.mark.slow
def test_a_write_that_does_not_fit_changes_nothing(tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: both are an OSError in the middle of a write."""
    script = """
        import resource, sys
        from pathlib import Path
        from vlae.runs.directory import RunDirectory
        from vlae.system.disk import RecordError
        from vlae.system.files import write_atomically
        path = Path(sys.argv[1])
        run = RunDirectory(path.parent)
        write_atomically(path, b"old")
        run.append_metrics({"epoch": 1, "note": "x" * 3000})
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        for act in (lambda: write_atomically(path, b"new" * 10_000), lambda: run.append_metrics({"note": "y" * 3000})):
            try:
                act()
            except RecordError as error:
                print(error)
        names = sorted(each.name for each in path.parent.iterdir())
        whole = path.with_name("metrics.jsonl").read_bytes().endswith(b"}\\n")
        print(path.read_text(), [line["epoch"] for line in run.metrics()], whole, names)
    """
    first, second, last = output_of(in_python(script, tmp_path / "results.json")).splitlines()
    assert first.startswith(f"cannot write {tmp_path}/results.json: File too large")
    assert second.startswith(f"cannot write {tmp_path}/metrics.jsonl: ")
    assert last == "old [1] True ['metrics.jsonl', 'results.json']"


@pytest.mark.parametrize("place", ["file/below", "missing/below"])
def test_an_unwritable_place_is_named(tmp_path, place):
    """Permission bits do not bind root, so a place is used in which no user can write."""
    tmp_path.joinpath("file").touch()
    with pytest.raises(RecordError, match=re.escape(f"cannot write {tmp_path / place}")):
        write_atomically(tmp_path / place, b"")
    if place == "file/below":
        with pytest.raises(RecordError, match=f"{tmp_path / 'file'} is not a directory"):
            RunDirectory.create(tmp_path / "file", RUN_ID, CONFIG)
    assert visible_and_hidden(tmp_path) == {"file"}


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(RecordError, match=rf": the directory {tmp_path / 'missing'} does not exist$"):
        write_atomically(tmp_path / "missing" / "below", b"")


def test_a_run_below_a_file_is_refused_with_the_file(tmp_path):
    """All that a start does before it creates its run's directory."""
    file = tmp_path / "file"
    file.touch()
    for runs_dir in (file, file / "below"):
        recover(runs_dir, RUN_ID)
        run = RunDirectory(runs_dir / RUN_ID)
        refuse_if_held(run.path)
        assert (run.results(), run.holder(), run.state(), run.run_id) == (None, None, "new", RUN_ID)
        assert all_runs(runs_dir) == []
        with pytest.raises(RecordError, match="no run"):
            find(runs_dir, RUN_ID)
        for create in (RunDirectory.create, rerun_directory):
            with pytest.raises(RecordError, match=rf"^cannot write \S+{RUN_ID}: {file} is not a directory$"):
                create(runs_dir, RUN_ID, CONFIG)
