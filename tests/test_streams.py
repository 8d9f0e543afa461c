"""Output that cannot be written is lost and nothing else; printed control characters are made visible."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from launching import run_command
from rich.table import Table
from rich.text import Text

from vlae.system.console import Console
from vlae.system.streams import CONTROLS, visible

EVERY_WAY = """
import logging, sys, traceback, warnings
from vlae.system.streams import guard
guard()
from rich.progress import Progress
from vlae.system.console import Console, Reporter
for stream in (sys.stdout, sys.stderr):
    print("printed", file=stream, flush=True)
    stream.write("x" * 100_000)
sys.stdout.buffer.write(b"bytes")
warnings.warn("of a library")
logging.warning("of a library")
try:
    raise ValueError
except ValueError:
    traceback.print_exc()
Console().print("[bold]rich[/]")
with Reporter() as reporter:
    reporter.warn("of a run")
with Progress(console=Console(stderr=True, force_terminal=True), refresh_per_second=1000) as bars:
    task = bars.add_task("", total=100)
    for _ in range(100):
        bars.advance(task)
        print("beside the bars")
open(sys.argv[1], "w").write("all of it")
"""


def python(program: str, *words: object, shell: str = 'exec "$@"', **options) -> subprocess.Popen:
    """``shell``: a command of bash that executes Python by "$@"."""
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", program, *map(str, words)]
    return subprocess.Popen(command, **options)


# --- what cannot be written -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell", ['"$@" > /dev/full 2>&1', 'exec "$@" >&- 2>&-', 'exec "$@" <&- >&- 2> /dev/full']
)
def test_a_full_disk_or_closed_descriptors_fail_nothing(shell, tmp_path):
    if "/dev/full" in shell and not Path("/dev/full").exists():
        pytest.skip("Linux alone has it")
    assert python(EVERY_WAY, tmp_path / "end", shell=shell).wait(60) == 0
    assert (tmp_path / "end").read_text() == "all of it", (
        "a file of the run got the number of a closed stream"
    )


@pytest.mark.slow
def test_a_closed_pipe_fails_nothing(tmp_path):
    process = python(EVERY_WAY, tmp_path / "end", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.close()
    assert process.wait(60) == 0
    assert (tmp_path / "end").exists()


@pytest.mark.slow
def test_a_lost_terminal_fails_nothing(tmp_path):
    ours, terminal = os.openpty()
    waiting = "import sys; sys.stdin.readline()\n"
    process = python(
        waiting + EVERY_WAY, tmp_path / "end", stdin=subprocess.PIPE, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    os.close(ours)
    process.communicate(b"go on\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "end").exists()


def test_an_encoding_that_lacks_a_character_fails_nothing():
    program = "from vlae.system.streams import guard\nguard()\nprint('1 ± 2')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = python(program, stdout=subprocess.PIPE, env=environment)
    assert process.communicate(timeout=60)[0] == b"1 ? 2\n"
    assert process.returncode == 0


BLOCKED = """
import sys, time
from vlae.system import streams
streams.guard()
streams.WAITS_FOR_READER = 0.2
streams.do_not_wait()
began = time.monotonic()
for _ in range(3000):
    print("x" * 100)
    print("x" * 100, file=sys.stderr)
open(sys.argv[1], "w").write(str(time.monotonic() - began))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_run_waits_only_so_long_for_a_stuck_reader(kind, tmp_path):
    ours, theirs = os.pipe() if kind == "pipe" else os.openpty()
    try:
        process = python(BLOCKED, tmp_path / "end", stdout=theirs, stderr=theirs)
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
        assert float((tmp_path / "end").read_text()) < 10
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.slow
def test_a_command_waits_for_its_reader_and_loses_nothing():
    program = "from vlae.system.streams import guard\nguard()\nfor i in range(100_000): print(i)"
    process = python(program, stdout=subprocess.PIPE)
    time.sleep(0.5)  # the pipe is full by now
    assert process.communicate(timeout=60)[0].split() == [b"%d" % i for i in range(100_000)]


# --- control characters -----------------------------------------------------------------------------------------

HOSTILE = "\x1b[31m\x1b[2J\x07\x08\r\x7f\x9b2J\x1b]0;title\x07 \u202eevil\u202c \u2066x\u2069 \u200b\u200f\ufeff \udcff"


@given(st.text(st.characters()))
def test_visible_text_differs_only_in_control_characters(text):
    assert CONTROLS.search(visible(text)) is None
    assert visible(visible(text)) == visible(text)
    if text.isprintable():
        assert visible(text) == text
    assert visible("\t\n" + text)[:2] == "\t\n"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_printed_json_keeps_its_meaning(text):
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.slow
def test_print_shows_controls_and_rich_sends_its_own():
    program = f"""
import sys
from vlae.system.streams import guard
guard()
from rich.table import Table
from rich.text import Text
from vlae.system.console import Console
hostile = {HOSTILE!r}
print(hostile)
print(hostile, file=sys.stderr)
console = Console(force_terminal=True, width=200, color_system=None)
console.print(hostile, markup=False)
console.print(Text(hostile, style="bold"))
table = Table("heading")
table.add_row(hostile.replace("[", "(")), table.add_row(Text(hostile, style="red"))
console.print(table)
"""
    process = python(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = process.communicate(timeout=60)[0].decode()
    assert [c for c in text if CONTROLS.match(c)] == []
    assert text.count("\\u202eevil") == 6


def test_wrapping_text_with_controls_loses_nothing(tmp_path):
    with (tmp_path / "out").open("w+") as file:
        table = Table(show_header=False, box=None, padding=0)
        table.add_column(overflow="fold")
        table.add_row(Text("\x1b[2J" * 10))
        Console(file=file, width=30).print(table)
        file.seek(0)
        assert "".join(file.read().split()) == "\\x1b[2J" * 10


@pytest.mark.slow
def test_live_bars_send_codes_and_show_other_output():
    program = """
import sys
from vlae.system.streams import guard
guard()
from rich.live import Live
from vlae.system.console import Console
with Live("live", console=Console(stderr=True, force_terminal=True), auto_refresh=False) as live:
    live.update("again", refresh=True)
    print("\\x1b[2J\\u202e", file=sys.stderr)
"""
    text = python(program, stderr=subprocess.PIPE).communicate(timeout=60)[1].decode()
    assert "\x1b[?25l" in text, "the cursor is hidden"
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert "\\u202e" in text


# --- a dropped terminal -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_with_a_lost_terminal_saves_and_resumes(tmp_path):
    from vlae.runs.directory import all_runs

    launch = Path(__file__).parents[1] / "launch.py"
    words = [
        *(sys.executable, launch, "model=vae", "dataset.sizes.hidden_dims=[6]", "trainer.epochs=100000"),
        *("device=cpu", "num_threads=1", "evaluate.num_samples=10", "evaluate.num_images=5"),
        "evaluate.num_gap_images=0",
    ]
    child, ours = os.forkpty()
    if child == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, list(map(str, words)))
    end = time.monotonic() + 120
    while not list(tmp_path.glob("runs/vae-*/metrics.jsonl")):
        assert time.monotonic() < end
        assert os.read(ours, 65536)
    os.close(ours)  # the connection drops: the kernel sends SIGHUP
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGHUP
    (run,) = all_runs(tmp_path / "runs")
    assert (run.status()["state"], run.status()["reason"]) == ("interrupted", "SIGHUP")
    assert (run.path / "checkpoints" / "last.pt").is_file()


# --- every command ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Runs from somebody else: a finished and a failed one, whose texts would control a terminal."""
    from recorded import container, done

    from vlae.config.run_id import run_id
    from vlae.launching import sweep_index
    from vlae.runs.directory import RunDirectory
    from vlae.system.files import json_bytes

    place = tmp_path_factory.mktemp("foreign") / "\u202eruns\x1b[2J"
    place.mkdir()
    hostile = HOSTILE.replace("\udcff", "")
    found = [container(seed=seed, dataset__root=hostile) for seed in (0, 1)]
    ids = [run_id(cfg) for cfg in found]
    done(place, found[0])
    failed = RunDirectory.create(place, ids[1], found[1])
    failed.write_status(state="failed", attempt=1, reason=hostile, message=hostile, where=hostile)
    attempt = failed.path / "attempts" / "1"
    attempt.mkdir(exist_ok=True)
    (attempt / "log.txt").write_bytes(f"{hostile}\r\nbar 10%\rbar 20%\n".encode() + b"\xff")
    (attempt / "ended.json").write_bytes(
        json_bytes({"state": "failed", "reason": hostile, "message": hostile})
    )
    sweep_index.record_sweep(place, "sweep", dict.fromkeys(ids, hostile), ["launch.py"])
    return place, *ids


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "show DONE", "show FAILED", "show \x1b[2J", "status", "status sweep", "status \u202e", "table", "table sweep",
        "table --format csv", "table --format json", "table --format html", "table --where id=\x1b[2J",
        "compare DONE FAILED", "logs FAILED", "logs -f FAILED", "logs sweep", "cancel sweep", "sync sweep",
        "figure sweep curves --out \u202e.svg", "report sweep --out OUT\u202e.html", "evaluate FAILED", "sample FAILED",
        "download \x1b[2J",
    ],
)  # fmt: skip
def test_no_command_prints_control_characters_of_files(words, foreign, tmp_path):
    place, done, failed = foreign
    replaced = {"DONE": done, "FAILED": failed}
    given = [replaced.get(word, word.replace("OUT", f"{tmp_path}/")) for word in words.split(" ")]
    if given[0] != "download":
        given += ["--runs-dir", str(place)]
    environment = {**os.environ, "COLUMNS": "300", "FORCE_COLOR": "", "WANDB_MODE": "offline"}
    text = run_command("vlae.cli", *given, cwd=tmp_path, env=environment, together=True).stdout
    assert text
    assert "Traceback" not in text or words.startswith("logs")
    assert [c for c in text if CONTROLS.match(c)] == []
    for page in tmp_path.glob("*.html"):
        assert CONTROLS.search(page.read_text()) is None
