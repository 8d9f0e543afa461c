"""The state of a run in the light of the queues that list it, and of what Slurm says of its jobs."""

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from simulation.scripted import ScriptedSlurm
from vlae.launching import queues, run_state, slurm_state
from vlae.launching.queues import NEVER, Waiting
from vlae.launching.run_state import Observer
from vlae.runs.directory import RunDirectory


@pytest.fixture
def slurm(monkeypatch):
    return ScriptedSlurm().install(monkeypatch)


class Sweep:
    """Runs ``0``, ``1``, ... of one queue."""

    def __init__(self, runs_dir, monkeypatch, cluster):
        self.runs_dir, self._environment, self.cluster = runs_dir, monkeypatch, cluster

    def submit(self, *jobs, kind="slurm", attempts=0, ago=3600):
        """A task for each job; None: its submission is not recorded yet. ago: seconds since then."""
        self.runs = [RunDirectory.create(self.runs_dir, str(i), {"seed": i}) for i in range(len(jobs))]
        waiting = [Waiting(str(i), attempts, task=i) for i in range(len(jobs))]
        self.queue = queues.create(
            self.runs_dir, kind=kind, sweep="s", code=self.runs_dir, runs=waiting,
            settings={"cluster": self.cluster} if kind == "slurm" else {},
        )  # fmt: skip
        created = datetime.now(timezone.utc) - timedelta(seconds=ago)
        self.change(self.queue.path / "queue.json", created=created.isoformat(timespec="seconds"))
        if kind == "slurm":
            self.queue.record_jobs({i: job for i, job in enumerate(jobs) if job is not None})

    def begin(self, number, job, host=None):
        """An attempt of a job, on this machine or another one."""
        array, _, task = job.partition("_")
        with self._environment.context() as patch:
            patch.setenv("SLURM_ARRAY_JOB_ID" if task else "SLURM_JOB_ID", array)
            if task:
                patch.setenv("SLURM_ARRAY_TASK_ID", task)
            attempt = self.runs[number].claim()
        if host is not None:
            self._claim(number, attempt.number, host=host, place=host)

    def kill(self, number, attempt=1):
        self._claim(number, attempt, process_start=1.0)

    def silent(self, number, seconds=301):
        """Its process, on another host, shows no life any more."""
        then = (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat(timespec="seconds")
        self.change(self.runs[number].path / "status.json", updated=then)
        self._claim(number, 1, started=then)

    def _claim(self, number, attempt, **changes):
        self.change(self.runs[number].path / "attempts" / str(attempt) / "claim.json", **changes)

    def change(self, file, **changes):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    def states(self):
        self.observer = Observer(self.runs_dir)
        return [self.observer.state(run.path) for run in self.runs]

    def names(self):
        return [state.state for state in self.states()]


@pytest.fixture
def sweep(tmp_path, monkeypatch, slurm):
    return Sweep(tmp_path / "runs", monkeypatch, slurm.identity)


ENDS = [
    ("TIMEOUT", "time limit"),
    ("DEADLINE", "time limit"),
    ("OUT_OF_MEMORY", "out of memory"),
    ("NODE_FAIL", "node lost"),
    ("PREEMPTED", "preempted"),
    ("CANCELLED", "cancelled"),
    ("FAILED", "killed"),
    ("COMPLETED", "missing"),
    ("REVOKED", "revoked"),
]


# --- what Slurm says ----------------------------------------------------------------------------------------------


def test_pending_and_running_jobs_are_read_per_task(slurm):
    slurm.waits("12_1", reason="JobArrayTaskLimit")
    slurm.waits("40")
    slurm.runs("12_0", node="n3")
    assert slurm_state.queued_jobs() == {
        "12_1": slurm_state.JobState("waiting", "JobArrayTaskLimit"),
        "40": slurm_state.JobState("waiting", "Resources"),
        "12_0": slurm_state.JobState("running", node="n3"),
    }
    slurm_state.queued_jobs("vlae-x")
    assert [call.split(" -o ")[0] for call in slurm.calls()] == [
        "squeue --me -h -r",
        "squeue --me -h -r -n vlae-x",
    ]


@pytest.mark.parametrize(("state", "reason"), ENDS)
@pytest.mark.parametrize("job", ["12_3", "12"])
def test_controller_and_accounting_say_how_jobs_ended(slurm, job, state, reason):
    slurm.known(job, state)
    assert slurm_state.known_jobs([job]) == {job: slurm_state.JobState("ended", reason, "n1")}
    slurm.forget("12")
    assert slurm_state.known_jobs([job]) == {job: slurm_state.MISSING}
    slurm.add_to_accounting(job, f"{state} by 1000" if state == "CANCELLED" else state)
    assert slurm_state.known_jobs([job]) == {job: slurm_state.JobState("ended", reason, "n1")}


def test_a_missing_node_has_no_name(slurm):
    slurm.known("12_0", "CANCELLED", node="(null)")
    slurm.add_to_accounting("13", "CANCELLED by 0", node="None assigned")
    assert slurm_state.known_jobs(["12_0"])["12_0"].node == ""
    assert slurm_state.known_jobs(["13"])["13"].node == ""


def test_a_missing_or_silent_slurm_is_an_error(slurm, monkeypatch):
    slurm.unreachable()
    with pytest.raises(slurm_state.SlurmError, match=r"squeue --me -h: .*Unable to contact slurm controller"):
        slurm_state.queued_jobs()
    slurm.silent()
    with pytest.raises(slurm_state.SlurmError, match="gave no answer"):
        slurm_state.slurm("squeue", seconds=0.05)
    monkeypatch.setattr(slurm_state.shutil, "which", lambda name: None)
    with pytest.raises(slurm_state.SlurmError, match="there is no squeue on this machine"):
        slurm_state.queued_jobs()


def test_the_largest_array_follows_the_slurm_configuration(monkeypatch):
    ScriptedSlurm(max_array_size=5).install(monkeypatch)
    assert slurm_state.this_cluster().largest_array == 5


def test_preemption_is_read_from_the_tasks_own_line(slurm):
    """``scontrol show job 12`` describes all tasks, and the last one has the array's own id as its JobId."""
    lines = [
        "JobId=13 ArrayJobId=12 ArrayTaskId=0 JobState=RUNNING PreemptTime=2026-01-02T03:04:05",
        "JobId=14 ArrayJobId=12 ArrayTaskId=1 JobState=COMPLETED PreemptTime=2026-01-02T03:04:05",
        "JobId=15 ArrayJobId=12 ArrayTaskId=3-5%2 JobState=PENDING PreemptTime=None",
        "JobId=12 ArrayJobId=12 ArrayTaskId=2 JobState=RUNNING PreemptTime=None Comment=a PreemptTime=2 b",
    ]
    slurm.says("scontrol", "\n".join(lines))
    assert [slurm_state.was_preempted(f"12_{task}") for task in range(5)] == [
        True,
        False,
        False,
        False,
        False,
    ]
    tasks = [f"12_{task}" for task in range(6)]
    assert [slurm_state.known_jobs(tasks)[job].state for job in tasks] == [
        "running",
        "ended",
        "running",
        *["waiting"] * 3,
    ]


def test_cancelling_no_jobs_does_not_ask_slurm(slurm):
    slurm_state.cancel([])
    assert slurm.calls() == []
    slurm_state.cancel(["12_0", "40"])
    assert slurm.calls() == ["scancel 12_0 40"]


# --- the state of the runs -------------------------------------------------------------------------------------


def test_a_run_is_queued_until_its_task_begins(sweep, slurm):
    sweep.submit("12_0", "12_1")
    slurm.waits("12_0", "12_1", reason="Priority")
    states = sweep.states()
    assert [(s.state, s.reason, s.where) for s in states] == [
        ("queued", "Priority", "job 12_0"),
        ("queued", "Priority", "job 12_1"),
    ]
    slurm.clear()
    slurm.runs("12_0", "12_1")
    sweep.begin(0, "12_0")
    running, starting = sweep.states()
    assert running.state == "running"
    assert 0 <= running.heartbeat < 60
    assert running.where.startswith("job 12_0 ")
    assert (starting.state, starting.heartbeat) == ("queued", None)


@pytest.mark.slow
@pytest.mark.parametrize(("state", "reason"), ENDS)
@pytest.mark.parametrize("host", [None, "elsewhere"])
def test_a_run_whose_job_ended_has_the_reason_of_slurm(sweep, slurm, state, reason, host):
    sweep.submit("12_0", "12_1")
    sweep.begin(0, "12_0", host)
    if host is None:
        sweep.kill(0)
    slurm.known("12_0", state)
    slurm.known("12_1", state)
    if host and reason in ("node lost", "missing"):  # then its process may live
        assert sweep.names()[0] == "running"
        sweep.silent(0)
    found = sweep.states()
    assert [(s.state, s.reason, s.heartbeat) for s in found] == [("interrupted", reason, None)] * 2
    assert [s.attempts for s in found] == [1, 0]


def test_a_job_that_slurm_has_forgotten_is_missing(sweep):
    sweep.submit("12_0", "40")
    assert [(s.state, s.reason) for s in sweep.states()] == [("interrupted", "missing")] * 2


@pytest.mark.parametrize("elsewhere", ["another cluster", "no Slurm", "empty answers"])
def test_unknown_jobs_are_no_evidence(sweep, slurm, elsewhere, monkeypatch):
    sweep.submit("12_0", "12_1", "12_2")
    sweep.begin(0, "12_0", host="elsewhere")
    sweep.begin(1, "12_1", host="elsewhere")
    sweep.silent(1)
    if elsewhere == "another cluster":
        slurm.slurm.settings = replace(slurm.slurm.settings, name="other")
        slurm.known("12_0", "FAILED")  # another job of the same id
        slurm.runs("12_2")
    elif elsewhere == "empty answers":
        slurm.slurm.empty_until = dict.fromkeys(("squeue", "scontrol", "sacct"), 1e9)
        slurm.says_of_jobs("")
    else:
        monkeypatch.setattr(slurm_state, "shutil", SimpleNamespace(which=lambda name: None))
    assert sweep.names() == ["running", "queued", "queued"]
    sweep.observer.record_ends()
    assert sweep.queue.ended is None
    warning = {
        "another cluster": f"belong to the cluster {sweep.cluster}, and commands here ask {slurm.identity}",
        "no Slurm": "there is no scontrol on this machine",
        "empty answers": "",
    }
    assert warning[elsewhere] in (sweep.observer.warning or "")


def test_a_missing_job_is_believed_only_if_its_run_is_silent(sweep):
    sweep.submit("12_0", "12_1", ago=5)
    sweep.begin(0, "12_0", host="elsewhere")
    assert sweep.names() == ["running", "queued"]
    sweep.change(sweep.queue.path / "queue.json", created="2020-01-01T00:00:00+00:00")
    assert sweep.names() == ["running", "interrupted"]
    sweep.silent(0, seconds=290)
    assert sweep.names() == ["running", "interrupted"]
    sweep.silent(0, seconds=310)
    assert sweep.names() == ["interrupted", "interrupted"]


def test_a_queue_without_a_cluster_is_no_evidence(sweep, slurm):
    """Older versions left such queues: the same ids may be another cluster's jobs."""
    sweep.cluster = None
    sweep.submit("12_0", "12_1")
    slurm.known("12_0", "FAILED")
    assert sweep.names() == ["queued", "queued"]
    assert "the jobs of s belong to the cluster None" in sweep.observer.warning
    sweep.observer.record_ends()
    assert sweep.queue.ended is None


def test_job_ids_are_per_cluster(sweep, slurm, monkeypatch):
    sweep.submit("12_0")
    monkeypatch.setenv("VLAE_QUEUE", "another")
    sweep.begin(0, "12_0", host="elsewhere")
    slurm.known("12_0", "OUT_OF_MEMORY")
    assert sweep.names() == ["running"], "executed by another queue's job"
    monkeypatch.setenv("SLURM_JOB_ID", "12_0")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("VLAE_QUEUE", sweep.queue.token)
    assert sweep.runs[0].holder() is not None
    monkeypatch.setenv("VLAE_QUEUE", "another")
    assert sweep.runs[0].holder() is None, "the same job, started again"


def test_an_interrupted_run_with_a_pending_job_is_queued(sweep, slurm):
    sweep.submit("12_0", "12_1")
    sweep.begin(0, "12_0")
    sweep.kill(0)
    sweep.begin(1, "12_1", host="elsewhere")  # whose node was lost: nothing says so yet but Slurm
    slurm.waits("12_0", "12_1", reason="BeginTime")
    assert [(s.state, s.reason, s.attempts) for s in sweep.states()] == [("queued", "BeginTime", 1)] * 2
    slurm.clear()
    slurm.runs("12_0")
    sweep.begin(0, "12_0")
    assert sweep.names()[0] == "running"


def test_a_run_that_died_in_a_running_job_had_its_turn(sweep, slurm):
    sweep.submit("12_0")
    slurm.runs("12_0")
    sweep.begin(0, "12_0")
    sweep.kill(0)
    assert [(s.state, s.reason) for s in sweep.states()] == [("interrupted", "killed")]


@pytest.mark.parametrize("end", ["running", "TIMEOUT"])
def test_done_and_failed_are_final(sweep, slurm, end):
    sweep.submit("12_0", "12_1")
    sweep.begin(0, "12_0")
    sweep.begin(1, "12_1")
    sweep.runs[0].write_results({"test": {"elbo": -1.0}})
    sweep.runs[1].write_status(state="failed", attempt=1, reason="exception", message="ValueError: x")
    for job in ("12_0", "12_1"):
        slurm.runs(job) if end == "running" else slurm.known(job, end)
    done, failed = sweep.states()
    assert done.state == "done"
    assert (failed.state, failed.reason, failed.message) == ("failed", "exception", "ValueError: x")


def test_an_unreachable_slurm_is_reported_and_ends_no_run(sweep, slurm):
    sweep.submit("12_0", "12_1")
    sweep.begin(1, "12_1", host="elsewhere")
    slurm.unreachable()
    assert sweep.names() == ["queued", "running"]
    assert "Unable to contact slurm controller" in sweep.observer.warning
    assert sweep.queue.ended is None


def test_an_ended_queue_is_closed_and_slurm_not_asked_again(sweep, slurm):
    sweep.submit("12_0", "12_1")
    sweep.begin(0, "12_0")
    sweep.kill(0)
    slurm.known("12_0", "OUT_OF_MEMORY")
    slurm.runs("12_1")
    assert sweep.names() == ["interrupted", "queued"]
    assert sweep.queue.ended is None
    slurm.clear()
    slurm.known("12_1", "PREEMPTED")
    first = [(s.state, s.reason) for s in sweep.states()]
    assert sweep.queue.ended is None, "looking writes nothing"
    sweep.observer.record_ends()
    assert sweep.queue.ended["reasons"] == {"0": "out of memory", "1": "preempted"}
    slurm.calls()
    slurm.unreachable()
    again = [(s.state, s.reason) for s in sweep.states()]
    assert again == first == [("interrupted", "out of memory"), ("interrupted", "preempted")]
    assert slurm.calls() == []
    assert sweep.observer.warning is None


def test_an_old_job_gives_no_reason_for_a_later_attempt(sweep, slurm):
    sweep.submit("12_0")
    sweep.begin(0, "12_0")
    sweep.kill(0)
    slurm.known("12_0", "TIMEOUT")
    assert sweep.states()[0].reason == "time limit"
    sweep.begin(0, "77")
    sweep.kill(0, attempt=2)
    assert sweep.states()[0].reason == "killed"


def test_a_runs_own_reason_counts_without_slurm(sweep, slurm):
    """It saved its state before the time limit, and was requeued too often already: FAILED for Slurm."""
    sweep.submit("12_0")
    sweep.begin(0, "12_0")
    sweep.runs[0].write_status(state="interrupted", attempt=1, reason="SIGUSR2")
    slurm.known("12_0", "FAILED")
    assert [(s.state, s.reason) for s in sweep.states()] == [
        ("interrupted", "time limit or preempted, not requeued")
    ]


def test_a_stopped_run_of_a_running_job_is_queued(sweep, slurm):
    """The job asks to be requeued when its last run has stopped; and then its runs begin one after the other."""
    sweep.submit("12_0")
    sweep.begin(0, "12_0")
    sweep.runs[0].write_status(state="interrupted", attempt=1, reason="SIGUSR2")
    sweep.runs[0].path.joinpath("attempts", "1", "ended.json").write_text("{}")
    slurm.runs("12_0")
    assert sweep.names() == ["queued"]
    slurm.clear()
    slurm.runs("77")  # another job, which does not execute it
    slurm.known("12_0", "FAILED")
    assert sweep.names() == ["interrupted"]


def test_pending_tasks_are_one_record_of_slurm(sweep, slurm):
    sweep.submit(*(f"12_{i}" for i in range(12)))
    slurm.known("12_3", "FAILED")
    slurm.known("12_0-2,4-10:2,9%4", "PENDING", node="(null)")
    assert [(s.run_id, s.state) for s in sweep.states() if s.state == "queued"] == [
        (str(i), "queued") for i in (0, 1, 2, 4, 6, 8, 9, 10)
    ]
    assert sweep.queue.ended is None
    slurm.forget("12")
    slurm.says("sacct", "12_[0-11%4]|PENDING|None assigned\n")
    assert sweep.names() == ["queued"] * 12


@pytest.mark.parametrize("deaf", ["scontrol", "sacct"])
def test_a_missing_answer_is_no_evidence(sweep, slurm, deaf):
    sweep.submit("12_0")
    slurm.fails(deaf, "Unable to contact slurm controller")
    assert sweep.names() == ["queued"]
    assert "Unable to contact" in sweep.observer.warning
    assert sweep.queue.ended is None


def test_a_job_not_yet_in_squeue_is_alive(sweep, slurm):
    """It was submitted a moment later; or it is another user's."""
    sweep.submit("12_0", "12_1", "12_2")
    slurm.known("12_0", "PENDING", reason="Resources", node="(null)")
    slurm.known("12_1", "RUNNING")
    slurm.known("12_2", "NODE_FAIL")
    assert sweep.names() == ["queued", "queued", "interrupted"]
    assert sweep.queue.ended is None


def test_split_arrays_and_single_jobs_are_queried_separately(sweep, slurm):
    sweep.submit("12_0", "12_1", "20_0", "30")
    slurm.waits("12_0")
    slurm.known("12_1", "TIMEOUT")
    slurm.known("20_0", "NODE_FAIL")
    slurm.known("30", "CANCELLED", node="(null)")
    assert [(s.state, s.reason) for s in sweep.states()] == [
        ("queued", "Resources"),
        ("interrupted", "time limit"),
        ("interrupted", "node lost"),
        ("interrupted", "cancelled"),
    ]
    asked = [call for call in slurm.calls() if call.startswith("scontrol show job")]
    assert sorted(asked) == [f"scontrol show job -o {array}" for array in (12, 20, 30)]


def test_only_runs_that_were_never_submitted_may_start(sweep, slurm):
    sweep.submit("12_0", None, NEVER)
    slurm.waits("12_0")
    assert sweep.names() == ["queued", "queued", "new"]
    assert sweep.states()[1].reason == ""
    place = sweep.queue.path / "claim.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "process_start": 1.0}))
    assert [(s.state, "rerun the launch" in s.reason) for s in sweep.states()] == [
        ("queued", False),
        ("queued", True),
        ("new", False),
    ]


def test_cancelled_runs_leave_the_slurm_queue(sweep, slurm):
    sweep.submit("12_0", "12_1")
    slurm.waits("12_0", "12_1")
    sweep.queue.cancel(["0"])
    assert sweep.names() == ["new", "queued"]
    slurm.clear()
    assert [s.reason for s in sweep.states()] == ["cancelled", "missing"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_run_in_any_living_queue_is_queued(sweep, slurm, monkeypatch, order):
    """Clocks of two hosts differ, and two launches may be of the same second."""
    sweep.submit("12_0", kind="slurm")
    slurm.runs("12_0")
    sweep.begin(0, "12_0")
    sweep.kill(0)  # its turn has been; the job continues with other runs
    sweep.submit("", kind="local", attempts=1)
    sweep.queue.end("ended")
    sweep.submit("", kind="local", attempts=1)
    found = sorted(queues.all_queues(sweep.runs_dir), key=lambda queue: queue.token)[::order]
    monkeypatch.setattr(run_state, "all_queues", lambda runs_dir: found)
    assert sweep.names() == ["queued"]
    sweep.begin(0, "77")
    slurm.clear()
    slurm.waits("12_0")
    assert sweep.names() == ["running"]


def test_a_local_queue_does_not_ask_slurm(sweep, slurm):
    sweep.submit("", "", kind="local")
    assert sweep.names() == ["queued", "queued"]
    sweep.queue.cancel(["0"])
    assert sweep.names() == ["new", "queued"]
    sweep.queue.end("ended")
    assert sweep.names() == ["new", "new"]
    assert slurm.calls() == []


def test_an_unreadable_record_fails_only_its_run(sweep, slurm):
    sweep.submit("12_0", "12_1")
    slurm.waits("12_0", "12_1")
    sweep.runs[0].path.joinpath("status.json").write_text("{")
    broken, whole = sweep.states()
    assert (broken.state, broken.reason) == ("failed", "unreadable record")
    assert whole.state == "queued"
