"""Promises of the recording W&B server, with the real client: every client is a process of its own.

Seconds go to the client's imports, so the tests that share a machine run one after the other: ``pytest -n 0``.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from wandb_server import KEY, RecordedRun, WandbServer

pytestmark = pytest.mark.slow

PRELUDE = """
import sys, time
import wandb

def settings(**more):
    return wandb.Settings(silent=True, console="off", x_disable_meta=True, x_disable_stats=True, **more)

def start(id, mode="online", resume="allow", config=None, **more):
    return wandb.init(project="p", id=id, mode=mode, resume=resume, config=config or {}, settings=settings(**more))

def epochs(run, first, last):
    for epoch in range(first, last):
        run.log({"epoch": epoch, "loss": 1 / (1 + epoch)})
"""


class Client:
    """Processes with the real client that write below one directory only."""

    def __init__(self, server: WandbServer, directory: Path) -> None:
        self.directory = directory
        self.variables = server.environment(directory / "client") | {
            "HOME": str(directory / "home"),
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
        }
        (directory / "home").mkdir()

    def __call__(self, code: str, **variables: str) -> str:
        return self.process([sys.executable, "-c", PRELUDE + code], **variables)

    def process(self, command: list[str], **variables: str) -> str:
        given = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        done = subprocess.run(
            command,
            env=given | self.variables | variables,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def segments(self) -> list[Path]:
        """The directories of all attempts, in order of their starts."""
        found = (self.directory / "client" / "wandb" / "wandb").glob("*run-2*")
        return sorted(found, key=lambda path: path.name.removeprefix("offline-"))

    def sync(self, *options: str) -> None:
        self.process([sys.executable, "-m", "wandb", "sync", *options, *map(str, self.segments())])


@pytest.fixture
def client(server: WandbServer, tmp_path: Path) -> Client:
    return Client(server, tmp_path)


def test_a_run_arrives_with_all_that_was_logged(server: WandbServer, client: Client) -> None:
    client("""
import numpy as np
run = wandb.init(
    project="p", id="a", name="shown", group="sweep", job_type="train", tags=["x", "y"], notes="why",
    config={"seed": 0, "model": {"name": "vae"}}, settings=settings(),
)
epochs(run, 0, 3)
run.log({"epoch": 3, "picture": wandb.Image(np.zeros((4, 5, 3), dtype="uint8"))})
run.log({"epoch": 4, "table": wandb.Table(columns=["n"], data=[[1]])})
run.summary["best"] = 0.25
run.config.update({"late": 1})
run.finish(exit_code=3)
""")
    run = server.run("a")
    assert (run.display_name, run.group, run.job_type, run.tags) == ("shown", "sweep", "train", ["x", "y"])
    assert run.notes == "why"
    assert run.config == {"seed": 0, "model": {"name": "vae"}, "late": 1}
    assert [(line["_step"], line["epoch"]) for line in run.history] == [(step, step) for step in range(5)]
    assert run.summary["best"] == 0.25
    picture = run.history[3]["picture"]
    assert run.files[picture["path"]].startswith(b"\x89PNG")
    assert len(run.files[picture["path"]]) == picture["size"]
    assert run.exit_codes == [3]
    assert run.state == "failed"
    assert run.num_upserts >= 1
    assert server.artifacts[0].type == "run_table"
    assert server.artifacts[0].state == "COMMITTED"
    assert "table.table.json" in server.artifacts[0].files
    assert server.keys == {KEY}
    assert not list((client.directory / "home").iterdir())  # nothing is written elsewhere
    written = [path for path in client.directory.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in written)


def test_console_lines_arrive(server: WandbServer, client: Client) -> None:
    client("""
run = wandb.init(project="p", id="a", settings=wandb.Settings(silent=True, console="wrap"))
print("hello from the run")
run.finish()
""")
    assert any("hello from the run" in line for line in server.run("a").console)


def test_a_second_attempt_resumes_where_the_first_ended(server: WandbServer, client: Client) -> None:
    client("run = start('a', config={'seed': 0}); epochs(run, 0, 3); run.finish(exit_code=1)")
    client("run = start('a'); assert run.resumed; epochs(run, 3, 5); run.finish()")
    run = server.run("a")
    assert [(line["_step"], line["epoch"]) for line in run.history] == [(step, step) for step in range(5)]
    assert run.config == {"seed": 0}
    assert run.exit_codes == [1, 0]
    assert run.state == "finished"
    assert run.num_resumes == 1


def test_resume_is_refused_or_required_as_set(server: WandbServer, client: Client) -> None:
    said = client("""
for id, resume in [("none", "must"), ("a", "never"), ("a", "never")]:
    try:
        start(id, resume=resume).finish()
        print("started")
    except wandb.errors.UsageError:
        print("refused")
    wandb.teardown()
""")
    assert said.split() == ["refused", "started", "refused"]


def test_offline_attempts_become_one_run(server: WandbServer, client: Client) -> None:
    client("run = start('a', 'offline', config={'seed': 0}); epochs(run, 0, 3); run.finish(exit_code=1)")
    time.sleep(1.1)  # directories are named by the second
    client("run = start('a', 'offline', config={'seed': 0}); epochs(run, 3, 5); run.finish()")
    assert not server.requests
    client.sync()
    run = server.run("a")
    assert [(line["_step"], line["epoch"]) for line in run.history] == [(step, step) for step in range(5)]
    assert run.summary["epoch"] == 4
    assert run.config == {"seed": 0}
    assert run.exit_codes == [1, 0]
    assert all(list(segment.glob("*.wandb.synced")) for segment in client.segments())


def test_a_second_sync_duplicates_the_data(server: WandbServer, client: Client) -> None:
    client("run = start('a', 'offline'); epochs(run, 0, 3); run.finish()")
    client.sync()
    client.sync()  # knows that it is done
    assert len(server.run("a").history) == 3
    client.sync("--include-synced")
    assert [line["_step"] for line in server.run("a").history] == [0, 1, 2, 0, 1, 2]


def test_several_runs_at_once_stay_separate(server: WandbServer, client: Client) -> None:
    def one(rank: int) -> None:
        client(f"run = start('r{rank}', config={{'seed': {rank}}}); epochs(run, 0, {3 + rank}); run.finish()")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, range(3)))
    assert [len(server.run(f"r{rank}").history) for rank in range(3)] == [3, 4, 5]
    assert [server.run(f"r{rank}").config["seed"] for rank in range(3)] == [0, 1, 2]


FAULTS = {
    "dead": None,
    "refused": {"status": 401},
    "forbidden": {"status": 403},
    "broken": {"status": 500},
    "busy": {"status": 429, "retry_after": 1},
    "dropping": {"drop": True},
    "slow": {"slow": 30.0},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_server_is_an_error_of_init_in_time(
    server: WandbServer, client: Client, fault: str
) -> None:
    if (how := FAULTS[fault]) is None:
        server.stop()
    else:
        server.fail(**how)
    said = client("""
began = time.time()
try:
    start("a", init_timeout=2)
except wandb.errors.CommError:
    print("raised", time.time() - began)
wandb.teardown()  # without it, the id is in use for ever
run = start("a", "offline")
epochs(run, 0, 3)
run.finish()
print("offline")
""")
    raised, seconds, offline = said.split()
    assert (raised, offline) == ("raised", "offline")
    assert float(seconds) < 10
    server.fail()
    if how is None:
        server.start()
    client.sync()
    assert len(server.run("a").history) == 3


def test_a_slow_server_is_waited_for(server: WandbServer, client: Client) -> None:
    server.fail(slow=0.5, only="RunResumeStatus|UpsertBucket")
    client("run = start('a', init_timeout=60); epochs(run, 0, 3); run.finish()")
    assert len(server.run("a").history) == 3


DIES = """
run = start("a", finish_timeout=2)
print("running", flush=True)
sys.stdin.readline()  # the server has died
epochs(run, 0, 3)
began = time.time()
run.finish()
print(time.time() - began)
"""


def _dies_in_mid_run(server: WandbServer, client: Client, code: str) -> str:
    """A client that learns when the server has died; returns the rest of its output."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        env=os.environ | client.variables,
        cwd=client.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "running"
    server.stop()
    said, _ = process.communicate("dead\n", timeout=120)
    assert process.returncode == 0
    return said


def test_a_dead_server_costs_finish_its_timeout(server: WandbServer, client: Client) -> None:
    seconds = float(_dies_in_mid_run(server, client, DIES))
    assert 1.5 < seconds < 6
    assert not server.run("a").history
    server.start()
    client.sync("--include-online")
    assert [line["epoch"] for line in server.run("a").history] == [0, 1, 2]
    assert server.run("a").exit_codes == [0]


def test_an_attempt_gets_the_next_step_from_the_server(server: WandbServer, client: Client) -> None:
    """Lines of a local record thus arrive once, whatever happened to the attempts before."""
    server.fail(status=401, only="file_stream")
    client("run = start('a'); epochs(run, 0, 3); run.finish()")  # says nothing, though nothing arrived
    assert not server.run("a").history
    server.fail()
    client("run = start('a'); epochs(run, run.starting_step, 4); run.finish()")
    client("run = start('a'); assert run.starting_step == 4; epochs(run, run.starting_step, 6); run.finish()")
    assert [(line["_step"], line["epoch"]) for line in server.run("a").history] == [
        (step, step) for step in range(6)
    ]


def test_a_fault_may_last_for_some_requests_only(server: WandbServer, client: Client) -> None:
    server.fail(status=500, only="UpsertBucket", times=1)
    client("run = start('a', init_timeout=60); epochs(run, 0, 3); run.finish()")
    assert len(server.run("a").history) == 3
    assert server.count("UpsertBucket") >= 2


def test_the_id_of_a_deleted_run_is_refused(server: WandbServer, client: Client) -> None:
    client("run = start('a'); epochs(run, 0, 3); run.finish(); wandb.Api().run('p/a').delete()")
    said = client("""
try:
    start("a", init_timeout=3)
except wandb.errors.CommError as error:
    print(error)
""")
    assert "previously created and deleted" in said
    assert not server.runs


# -- reading back


def _record(server: WandbServer, number: int) -> None:
    """Runs that are there already, of two groups."""
    server.projects.add(("tester", "p"))
    for rank in range(number):
        run = RecordedRun("tester", "p", f"r{rank}", created=rank, state="finished")
        run.fields = {"groupName": "even" if rank % 2 == 0 else "odd", "tags": ["old"]}
        run.raw_config = {"seed": {"value": rank}, "model": {"value": {"name": "vae"}}}
        run.lines["wandb-summary.json"] = {0: f'{{"loss": {rank / 2}}}'}
        run.lines["wandb-history.jsonl"] = {
            step: f'{{"_step": {step}, "loss": {step / 4}}}' for step in range(600 if rank == 0 else 3)
        }
        run.files["notes.txt"] = b"kept"
        server.runs["tester", "p", run.name] = run


def test_the_runs_of_a_group_are_read_page_by_page(server: WandbServer, client: Client) -> None:
    _record(server, 600)
    said = client("""
for per_page in (50, 300):
    runs = wandb.Api().runs("tester/p", filters={"group": "odd"}, per_page=per_page, lazy=False)
    print(len(list(runs)), sum(run.config["seed"] for run in runs), sum(run.summary["loss"] for run in runs))
""")
    assert said.splitlines() == ["300 90000 45000.0"] * 2
    assert server.count("Runs") == 6 + 1
    assert server.count("Run") == 0


def test_a_lazy_list_queries_every_run(server: WandbServer, client: Client) -> None:
    _record(server, 10)
    assert client("print(sum(run.config['seed'] for run in wandb.Api().runs('tester/p')))") == "45"
    assert (server.count("Runs"), server.count("Run")) == (1, 10)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"config.seed": 3}, ["r3"]),
        ({"config.model.value.name": "vae", "summary_metrics.loss": {"$lt": 1}}, ["r0", "r1"]),
        ({"$or": [{"display_name": "none"}, {"group": {"$in": ["odd"]}}], "state": "finished"}, ["r1", "r3"]),
        ({"tags": "new"}, []),
    ],
)
def test_filters_work_as_in_mongodb(
    server: WandbServer, client: Client, filters: dict, names: list[str]
) -> None:
    _record(server, 4)
    said = client(f"print([run.id for run in wandb.Api().runs('tester/p', filters={filters!r}, lazy=False)])")
    assert said == str(names)


def test_history_and_files_can_be_read(server: WandbServer, client: Client) -> None:
    _record(server, 1)
    said = client("""
run = wandb.Api().run("tester/p/r0")
print(len(list(run.scan_history())), len(list(run.scan_history(keys=["loss"]))))
run.file("notes.txt").download(root="down")
print(open("down/notes.txt").read())
""")
    assert said.split() == ["600", "600", "kept"]


def test_a_busy_server_is_retried(server: WandbServer, client: Client) -> None:
    _record(server, 3)
    server.fail(status=429, retry_after=0.2, only="Runs", times=2)
    assert client("print(len(list(wandb.Api().runs('tester/p', lazy=False))))") == "3"
    assert server.count("Runs") == 3


REPORT = """
import wandb_workspaces.reports.v2 as wr

def blocks(table):
    runs = wr.Runset(entity="tester", project="p", filters="Group == 'odd'", groupby=["config.model.name"])
    panels = [
        wr.LinePlot(x="epoch", y=["loss"], groupby="config.model.name"),
        wr.BarPlot(metrics=["loss"], groupby="config.model.name"),
        wr.MediaBrowser(media_keys=["picture"]),
    ]
    return [wr.MarkdownBlock(table), wr.PanelGrid(runsets=[runs], panels=panels)]

def save(table):
    known = [report for report in wandb.Api().reports("tester/p") if report.display_name == "Sweep"]
    report = wr.Report(entity="tester", project="p", title="Sweep", blocks=blocks(table))
    if known:
        report.id = known[0].id
    report.save()
    return report
"""


def test_a_report_is_saved_found_by_its_title_and_updated(server: WandbServer, client: Client) -> None:
    pytest.importorskip("wandb_workspaces")
    _record(server, 2)
    client(
        REPORT
        + "save('first'); report = save('second'); assert wr.Report.from_url(report.url).title == 'Sweep'"
    )
    (report,) = server.reports
    assert (report.title, report.num_saves, report.type) == ("Sweep", 2, "runs")
    markdown, grid = (
        block for block in report.spec["blocks"] if block["type"] in ("markdown-block", "panel-grid")
    )
    assert markdown["content"] == "second"
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    assert [panel["viewType"] for panel in panels] == ["Run History Line Plot", "Bar Chart", "Media Browser"]
    (runs,) = grid["metadata"]["runSets"]
    assert runs["filters"]["filters"][0]["value"] == "odd"


def test_an_unknown_query_is_an_error(tmp_path: Path) -> None:
    with WandbServer() as server:
        client = Client(server, tmp_path)
        client("""
try:
    list(wandb.Api().project("p", "tester").sweeps())
except Exception:
    print("failed")
""")
        assert server.unknown
