"""Atomic directories: whole or absent, the first writer wins, and a failed one leaves nothing."""

import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from vlae.system import processes
from vlae.system.disk import RecordError
from vlae.system.files import (
    appearing,
    read_bytes,
    read_json,
    remove_abandoned,
    write_atomically,
    write_output,
)


def in_python(script: str, *arguments: object) -> str:
    """The output of a separate Python that executes ``script``."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    tests = Path(__file__).parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=tests, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def visible(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*")}


def test_a_directory_appears_whole_when_the_block_ends(tmp_path):
    path = tmp_path / "not" / "there" / "yet"
    with appearing(path) as staged:
        staged.joinpath("below").mkdir()
        staged.joinpath("below", "file").write_text("content")
        assert not path.exists()
    assert visible(path) == {"below", "below/file"}
    assert list(staged.parent.iterdir()) == []


def test_the_first_writer_wins(tmp_path):
    with appearing(tmp_path / "it") as late:
        late.joinpath("file").write_text("late")
        with appearing(tmp_path / "it") as early:
            early.joinpath("file").write_text("early")
    assert (tmp_path / "it" / "file").read_text() == "early"
    assert list(late.parent.iterdir()) == []


@pytest.mark.slow
def test_one_of_several_processes_wins_whole(tmp_path):
    """Each fills 20 directories with its number in two files; no directory holds two numbers."""
    script = """
        import os, sys
        from multiprocessing import get_context
        from pathlib import Path
        from vlae.system.files import appearing

        def contend(barrier, number):
            for each in range(20):
                barrier.wait()
                with appearing(Path(sys.argv[1], str(each))) as staged:
                    for name in "ab":
                        staged.joinpath(name).write_text(str(number))

        context = get_context("fork")
        barrier = context.Barrier(6, timeout=30)
        processes = [context.Process(target=contend, args=(barrier, number)) for number in range(6)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        print([process.exitcode for process in processes])
    """
    assert in_python(script, tmp_path) == f"{[0] * 6}\n"
    made = [path for path in tmp_path.iterdir() if path.name != ".new"]
    assert len(made) == 20
    assert all((path / "a").read_text() == (path / "b").read_text() for path in made)
    assert list((tmp_path / ".new").iterdir()) == []


@pytest.mark.slow
def test_a_killed_creation_is_whole_or_absent():
    script = """
        from killing import killed_at_every_step
        from vlae.system.files import appearing

        def make(folder):
            with appearing(folder / "it") as staged:
                for name in "ab":
                    staged.joinpath(name).write_text(name)

        def check(folder):
            assert not (folder / "it").exists() or (folder / "it" / "b").read_text() == "b"
            make(folder)
            assert sorted(path.name for path in (folder / "it").iterdir()) == ["a", "b"]

        print(killed_at_every_step(lambda folder: None, make, check))
    """
    assert int(in_python(script)) > 5


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_nothing(tmp_path, error):
    def fill():
        with appearing(tmp_path / "it") as staged:
            staged.joinpath("file").touch()
            raise error

    with pytest.raises(type(error)):
        fill()
    assert [path.name for path in tmp_path.rglob("*")] == [".new"]


def test_a_file_system_error_names_the_path(tmp_path):
    """Permission bits do not bind root, so a file stands where a directory has to be."""
    tmp_path.joinpath("file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "it"):
        text = (
            rf"^cannot write {re.escape(str(path))}: {re.escape(str(tmp_path / 'file'))} is not a directory$"
        )
        with pytest.raises(RecordError, match=text), appearing(path):
            pass
    with pytest.raises(RecordError, match="No space left on device"), appearing(tmp_path / "it"):
        raise OSError(28, "No space left on device")
    assert visible(tmp_path) == {"file"}


def temporary(name, where=None, pid=None, start=None):
    """The name that a process gives to a temporary file."""
    pid = pid or os.getpid()
    start = processes.process_start(pid) if start is None else start
    return f"{name}.{processes.mark(where or processes.place(), pid, start)}.01234567"


@pytest.mark.parametrize(
    ("of", "age", "stays"),
    [
        ({}, 10**9, True),  # a living process, however long it takes
        ({"start": 0.0}, 0, False),  # its process id belongs to another process by now
        ({"pid": 2**22 + 1, "start": 3.0}, 0, False),
        ({"where": "another host"}, 0, True),
        ({"where": "another host"}, 8 * 24 * 3600, False),
    ],
)
def test_only_files_of_dead_processes_are_removed(tmp_path, of, age, stays):
    staged = tmp_path / ".new" / temporary("run", **of)
    staged.joinpath("below").mkdir(parents=True)
    deep = tmp_path / "images" / "epoch-000001" / f".{temporary('samples.png', **of)}.tmp"
    deep.parent.mkdir(parents=True)
    deep.touch()
    for path in (staged, deep):
        os.utime(path, (time.time() - age,) * 2)
    with appearing(tmp_path / "a"):
        pass
    assert staged.exists() == stays
    remove_abandoned(tmp_path)
    assert (staged.exists(), deep.exists()) == (stays, stays)
    assert (tmp_path / "a").is_dir()


def test_temporary_files_name_their_process(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(os, "replace", lambda source, target: names.append(os.path.basename(source)))
    write_atomically(tmp_path / "a", b"b")
    with appearing(tmp_path / "c") as staged:
        names.append(staged.name)
    assert [processes.owner_lives(name) for name in names] == [True, True]
    assert list(tmp_path.glob(".*.tmp")) == []


def test_a_link_of_the_user_is_followed_when_writing(tmp_path):
    real, link = tmp_path / "real.md", tmp_path / "link.md"
    real.write_text("old")
    link.symlink_to("real.md")
    write_output(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"


def test_a_link_in_a_record_is_never_written_through(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to("real.json")
    write_atomically(link, b"new")
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"
    assert real.read_text() == "old"


def test_a_link_is_read_only_within_its_directory(tmp_path):
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    tmp_path.joinpath("secret.json").write_text('{"a": 1}')
    run.joinpath("real.json").write_text('{"b": 2}')
    for name, target in (
        ("beside.json", "real.json"),
        ("above.json", "../../secret.json"),
        ("by-name.json", tmp_path / "secret.json"),
        ("in-two-steps.json", "above.json"),
        ("nowhere.json", "nothing"),
        ("itself.json", "itself.json"),
    ):
        run.joinpath(name).symlink_to(target)
    (tmp_path / "elsewhere").symlink_to(run.parent)  # runs_dir itself may be a link, and a run, too
    for folder in (run, tmp_path / "elsewhere" / "a"):
        assert read_json(folder / "beside.json") == {"b": 2}
        for name in ("above.json", "by-name.json", "in-two-steps.json"):
            with pytest.raises(RecordError, match=rf"{name} is a link to .*/secret.json, which is elsewhere"):
                read_json(folder / name)
        assert read_json(folder / "nowhere.json") is None
        with pytest.raises(RecordError, match=r"itself\.json: it is a link to itself"):
            read_json(folder / "itself.json")


def test_only_plain_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecordError, match="pipe: it is no plain file"):
        read_bytes(tmp_path / "pipe")
    with pytest.raises(RecordError, match="Is a directory"):
        read_bytes(tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    file = tmp_path / "results.json"
    with file.open("wb") as sparse:
        sparse.truncate(2**42)
    with pytest.raises(
        RecordError, match=r"results\.json: it has 4,398,046,511,104 bytes, expected 268,435,456 at most"
    ):
        read_json(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1, "b": {"c": 2, "c": 3}}', "the key 'c' twice"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "integer string conversion"),
        (b"\xff", "can't decode"),
        (b'{"a": 1} {}', "Extra data"),
        (b"[]", "but a list"),
        (b"", "Expecting value"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_invalid_json_is_refused_with_its_reason(tmp_path, content, reason):
    tmp_path.joinpath("a.json").write_bytes(content)
    with pytest.raises(RecordError, match=rf"a\.json holds no JSON object \(.*{reason}"):
        read_json(tmp_path / "a.json")
