"""The mirror on Weights & Biases. The only module of a run that imports wandb."""

import contextlib
import netrc
import os
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from vlae import code
from vlae.attempts import FORCED, now
from vlae.files import json_bytes, make_directory, read_json, write_atomically
from vlae.record import RunDirectory
from vlae.trackers.story import TRACKING, Settings, Story, flat

NAME = "wandb"
INIT_WITHIN = 15.0
"""Seconds that W&B has to answer at the start; then the run goes on offline."""
FINISH_WITHIN = 30.0
"""Seconds that it has to take what is left at the end, where nobody waits less."""
LOOKS = 3
"""At what has arrived, which the service may see a second later than it took it."""
JITTER = 10.0
"""Seconds over which jobs that start together are spread."""
STATES = {"done": 0, "failed": 1}
"""Exit codes, by which W&B calls a run finished or failed; it calls others crashed or preempted."""


class Streamed:
    """A run as it goes on, online or offline; what W&B has already is not sent again."""

    def __init__(self, story: Story, mode: str | None = None, *, anew: bool = False) -> None:
        """mode: online, for what is uploaded later; None: as the configuration, the environment and the key say, and
        offline where W&B cannot be reached.

        anew: under another id, with nothing of it there yet.
        """
        self.story = story
        self._asked, self._mode = mode, ""
        self._run: Any = None
        kept = story.kept(NAME)
        if anew or not kept:
            kept = {"generation": generation_before(story) + 1}
        self._kept: dict[str, Any] = {"sent": 0, "reason": None, **kept}

    def start(self) -> None:
        os.environ.update(self._environment())
        for name in ("WANDB_DEBUG", "WANDB_CORE_DEBUG"):  # with which the key is written to logs
            os.environ.pop(name, None)
        import wandb

        self._mode = self._asked or mode_of(self.story.settings.mode, has_key())
        if self._mode == "online" and self._asked is None and "SLURM_JOB_ID" in os.environ:
            time.sleep(random.uniform(0, JITTER))
        try:
            self._run = self._init()
        except Exception as error:
            if self._asked is not None or self._mode == "offline":
                raise
            wandb.teardown()  # which holds the id
            self._mode, self._kept["reason"] = "offline", f"{type(error).__name__}: {_in_one_line(error)}"
            self._run = self._init()
        for key in ("epoch", "global_step"):
            self._run.define_metric(key)
        self._run.define_metric("*", step_metric="epoch")
        if self._mode == "online":  # how much W&B has, it knows better than we do
            self._kept["sent"] = self._run.starting_step
        self._keep(complete=False, reason=self._kept["reason"] if self._mode == "offline" else None)

    def catch_up(self) -> None:
        import wandb

        steps = self._steps()
        for step in steps[self._kept["sent"] :]:
            pictures = {
                key: wandb.Image(str(value)) for key, value in step.items() if isinstance(value, Path)
            }
            self._run.log(step | pictures)
        if len(steps) > self._kept["sent"]:
            self._keep(sent=len(steps))

    def _steps(self) -> list[dict[str, Any]]:
        """All that the run directory tells so far, one entry for each step of the history on W&B.

        A longer story begins with the same steps: pictures are there before the next epoch is. So a number tells
        what is still to be sent, whoever has sent the rest.
        """
        steps = []
        for line, pictures in self.story.chapters():
            steps.append(line)
            if pictures:
                steps.append(
                    {"epoch": line["epoch"], **{f"images/{n}": file for n, file in pictures.items()}}
                )
        return steps

    def finish(self) -> None:
        import wandb

        status, results = self.story.directory.status(), self.story.results()
        if results is not None:
            self._run.summary.update(flat(results))
            if self._kept["sent"] == len(self._steps()):
                self._run.log(self._last_step(results))
                self._kept["sent"] += 1
            if self.story.settings.artifacts and (model := self.story.best_checkpoint()):
                artifact = wandb.Artifact(f"{self._run.id}-model", "model")
                artifact.add_file(str(model))
                self._run.log_artifact(artifact)
        elif status["state"] == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=STATES.get(status["state"], 255))
        whole = results is not None and self._mode == "online" and self._has_arrived()
        self._keep(complete=whole)

    def give_up(self) -> None:
        """Ends the client's work on this run, or the next one of this process would go on with it."""
        import wandb

        if wandb.run is not None:
            with contextlib.suppress(Exception):
                wandb.run.finish(exit_code=STATES["failed"])
        with contextlib.suppress(Exception):
            wandb.teardown()

    def _last_step(self, results: dict[str, Any]) -> dict[str, Any]:
        import wandb

        step: dict[str, Any] = {"epoch": results["epochs"]}
        step |= {f"final/{name}": wandb.Image(str(file)) for name, file in self.story.last_pictures().items()}
        if file := self.story.per_image():
            step["test/per_image"] = per_image_table(file)
        return step

    def _has_arrived(self) -> bool:
        """Asked of W&B: a key that is refused in mid-run ends the client's work without a word."""
        import wandb

        path = f"{self._run.entity}/{self._run.project}/{self._run.id}"
        for _ in range(LOOKS):
            there = wandb.Api(timeout=10).run(path)
            if there.lastHistoryStep + 1 >= self._kept["sent"] and "run_id" in there.summary:
                return True
            time.sleep(1)
        return False

    def _init(self) -> Any:
        import wandb

        settings, place = self.story.settings, make_directory(self.story.place)
        return wandb.init(
            id=wandb_id(self.story.run_id, self._kept["generation"]),
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            name=settings.name or self.story.run_id,
            tags=self.story.tags,
            notes=self.story.notes(code.description()),
            config=self.story.shown_config,
            dir=str(place),
            mode="online" if self._mode == "online" else "offline",
            resume="allow",
            settings=wandb.Settings(
                init_timeout=INIT_WITHIN,
                finish_timeout=FINISH_WITHIN,
                finish_timeout_raises=True,
                silent=True,
                console="off",
                x_transaction_log_flush_interval=1,  # what a SIGKILL loses
                # the run's own record has what is worth knowing of code and machine
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
                x_save_requirements=False,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
            ),
        )

    def _environment(self) -> dict[str, str]:
        """Of the client: a word to nobody, and no file outside of the run directory, but for what the user says."""
        places = {f"WANDB_{name}_DIR": str(self.story.place / "wandb-client") for name in ("CACHE", "DATA")}
        places = {name: place for name, place in places.items() if name not in os.environ}
        # reports of its own errors hold the end of a process for 20 seconds where there is no internet
        return {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", **places}

    def _keep(self, **changes: Any) -> None:
        self._kept.update(changes)
        told = {
            "id": self._run.id,
            "url": self._run.url if self._mode == "online" else None,
            "mode": self._mode,
            "updated": now(),
        }
        write_atomically(self.story.place / f"{NAME}.json", json_bytes(self._kept | told))


def generation_before(story: Story) -> int:
    """How often there was a run of this id on W&B: a run that is done anew, or mirrored anew, gets another one.

    What has happened under an id there can be neither taken back nor, once deleted, used again.
    """
    found = story.kept(NAME).get("generation", 0)
    if story.directory.path.parent.name == FORCED:
        replaced = RunDirectory(story.directory.path.parent.parent / story.run_id)
        found = max(found, (read_json(replaced.path / TRACKING / f"{NAME}.json") or {}).get("generation", 0))
    return found


def delete(settings: Settings, wandb_id: str) -> bool:
    """A run on W&B. Returns whether it was there: one that was offline may never have arrived."""
    from wandb.errors import CommError

    import wandb

    path = "/".join(filter(None, [settings.entity, settings.project, wandb_id]))
    try:
        found = wandb.Api().run(path)
    except (CommError, ValueError) as error:
        if "could not find" not in str(error).lower():
            raise
        return False
    found.delete()
    return True


def wandb_id(run_id: str, generation: int) -> str:
    """The same for all attempts of a run."""
    return run_id if generation == 1 else f"{run_id}-g{generation}"


def mode_of(asked: str, key: bool) -> str:
    """online or offline. asked: as in the configuration; WANDB_MODE wins over auto."""
    if asked == "auto":
        asked = os.environ.get("WANDB_MODE") or "auto"
    if asked in ("online", "offline"):
        return asked
    return "online" if key else "offline"


def has_key() -> bool:
    """Whether this user has a key for W&B, in the environment or by `wandb login`, which puts it into ~/.netrc.

    Without asking anybody, the user or the service.
    """
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    for place in filter(None, [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(Path(place).expanduser()).authenticators(host):
                return True
    return False


def per_image_table(file: Path) -> Any:
    """Of each test image: its log-likelihood by each proposal, in nats."""
    import wandb

    with np.load(file) as arrays:
        names = sorted(name for name in arrays.files if name.startswith("log_likelihood"))
        columns = [arrays[name].tolist() for name in names]
    data: list[Any] = [[i, *values] for i, values in enumerate(zip(*columns, strict=True))]
    return wandb.Table(columns=["image", *names], data=data)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
