"""Events that disturb a sweep: users, nodes, the controller, other people's jobs."""

import signal
from typing import Any


def disturb(history: Any) -> None:
    """Something happens, by the random numbers of the history."""
    random = history.random
    chosen = random.choices(list(DISTURBANCES), weights=list(DISTURBANCES.values()))[0]
    chosen(history)


def _place(history: Any) -> str:
    return history.random.choice(list(history.clusters))


def _slurm(history: Any) -> Any:
    return history.clusters[_place(history)]


def _running(history: Any) -> list[tuple[Any, Any]]:
    return [(s, job) for s in history.clusters.values() for job in s.jobs if job.state == "RUNNING"]


def launch_again(history: Any) -> None:
    history.command("launch", _place(history), history._launch, history.doom(0.2))


def launch_here(history: Any) -> None:
    """The same sweep on the login node, in place of Slurm."""
    history.command("local launch", _place(history), history._launch_here, history.doom(0.2))


def cancel(history: Any) -> None:
    history.command("cancel", _place(history), history.cancel, history.doom(0.1))


def look(history: Any) -> None:
    history.look(_place(history))


def preempt(history: Any) -> None:
    if running := _running(history):
        slurm, job = history.random.choice(running)
        slurm.preempt(job)


def lose_node(history: Any) -> None:
    slurm = _slurm(history)
    slurm.lose_node(history.random.choice(slurm.nodes), history.random.uniform(30, 900))


def lose_sight_of_node(history: Any) -> None:
    slurm = _slurm(history)
    slurm.lose_sight(history.random.choice(slurm.nodes), history.random.uniform(200, 900))


def controller_away(history: Any) -> None:
    slurm, seconds = _slurm(history), history.random.uniform(5, 400)
    slurm.away_until = history.world.now + seconds
    history.world.log(f"the controller of {slurm.settings.name} is away for {seconds:.0f} s")


def controller_silent(history: Any) -> None:
    slurm, seconds = _slurm(history), history.random.uniform(5, 400)
    slurm.silent_until = history.world.now + seconds
    history.world.log(f"the controller of {slurm.settings.name} gives no answer for {seconds:.0f} s")


def empty_answers(history: Any) -> None:
    slurm, seconds = _slurm(history), history.random.uniform(5, 400)
    program = history.random.choice(["squeue", "squeue", "scontrol", "sacct"])
    slurm.empty_until[program] = history.world.now + seconds
    history.world.log(f"{program} of {slurm.settings.name} prints nothing for {seconds:.0f} s")


def kill_process(history: Any) -> None:
    """Kill a process as a person does, or as the kernel does where memory is short."""
    living = [process for process in history.world.processes.values() if process.alive]
    if living:
        process = history.random.choice(living)
        history.world.log(f"{process} is killed")
        process.send(signal.SIGKILL)


def press_ctrl_c(history: Any) -> None:
    """At a command that has not returned yet."""
    commands = [
        process
        for process in history.world.processes.values()
        if process.alive and signal.SIGINT in process.handlers and process.host.startswith("login-")
    ]
    if commands:
        process = history.random.choice(commands)
        history.world.log(f"{process} gets a Ctrl-C")
        process.send(signal.SIGINT)


def out_of_memory(history: Any) -> None:
    if running := _running(history):
        slurm, job = history.random.choice(running)
        slurm.kill(job)


def scancel(history: Any) -> None:
    """A user or an administrator ends a job without vlae."""
    if running := _running(history):
        slurm, job = history.random.choice(running)
        history.world.log(f"job {job.named} is ended by scancel")
        slurm.cancel(job.named)


DISTURBANCES = {
    launch_again: 3, launch_here: 0.7, cancel: 2, look: 6, preempt: 4, lose_node: 2, lose_sight_of_node: 0.7,
    controller_away: 1.5, controller_silent: 1, empty_answers: 1, kill_process: 2, out_of_memory: 1, scancel: 1,
    press_ctrl_c: 1,
}  # fmt: skip
