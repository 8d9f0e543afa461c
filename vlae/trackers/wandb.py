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
INIT_WITHIN = 20.0
"""Seconds that W&B has to answer at the start; then the run goes on offline."""
JITTER = 10.0
"""Seconds over which jobs that start together are spread."""
STATES = {"done": 0, "failed": 1}
"""Exit codes, by which W&B calls a run finished or failed; it calls others crashed or preempted."""


class Streamed:
    """A run as it goes on, online or offline; what W&B has already is not sent again."""

    def __init__(self, story: Story, mode: str | None = None, *, anew: bool = False) -> None:
        """mode: online, for what is uploaded later; None: as the configuration, the environment and the key say.

        anew: under another id, with nothing of it there yet.
        """
        self.story = story
        self._mode, self._run = mode, None
        kept = story.kept(NAME)
        if anew or not kept:
            kept = {"generation": generation_before(story) + 1}
        self._kept: dict[str, Any] = {"epoch": 0, "pictures": 0, "reason": None, **kept}

    def start(self) -> None:
        import wandb

        self._mode = self._mode or mode_of(self.story.settings.mode, has_key())
        if self._mode == "online":
            if "SLURM_JOB_ID" in os.environ:
                time.sleep(random.uniform(0, JITTER))
            try:
                self._run = self._init("online")
            except Exception as error:
                self._kept["reason"] = f"{type(error).__name__}: {_first_line(error)}"
                self._mode = "offline"
                wandb.teardown()
        if self._run is None:
            self._run = self._init("offline")
        for key in ("epoch", "global_step"):
            self._run.define_metric(key)
        self._run.define_metric("*", step_metric="epoch")
        if self._mode == "online" and self._run.resumed:
            # the truth about what W&B has is there
            self._kept["epoch"] = int(self._run.summary.get("epoch") or 0)
            self._kept["pictures"] = int(self._run.summary.get("pictures_epoch") or 0)
        elif self._mode == "online":
            self._kept["epoch"] = self._kept["pictures"] = 0
        self._keep(complete=False)

    def catch_up(self) -> None:
        import wandb

        assert self._run is not None
        sent = False
        for line in self.story.lines(self._kept["epoch"]):
            self._run.log(line)
            self._kept["epoch"], sent = line["epoch"], True
        for epoch, pictures in self.story.pictures(self._kept["pictures"]):
            if epoch > self._kept["epoch"]:
                break
            images = {f"images/{name}": wandb.Image(str(file)) for name, file in pictures.items()}
            self._run.log({"epoch": epoch, "pictures_epoch": epoch, **images})
            self._kept["pictures"], sent = epoch, True
        if sent:
            self._keep()

    def finish(self) -> None:
        import wandb

        assert self._run is not None
        status, results = self.story.directory.status(), self.story.results()
        if results is not None:
            self._run.summary.update(flat(results))
            final = {f"final/{n}": wandb.Image(str(file)) for n, file in self.story.last_pictures().items()}
            if file := self.story.per_image():
                final["test/per_image"] = per_image_table(file)
            self._run.log({"epoch": results["epochs"], **final})
            if self.story.settings.artifacts and (model := self.story.best_checkpoint()):
                artifact = wandb.Artifact(f"{self._run.id}-model", "model")
                artifact.add_file(str(model))
                self._run.log_artifact(artifact)
        elif status["state"] == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=STATES.get(status["state"], 255))
        self._keep(complete=self._mode == "online" and results is not None, finished=True)

    def _init(self, mode: str) -> Any:
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
            mode=mode,
            resume="allow",
            settings=wandb.Settings(
                init_timeout=INIT_WITHIN,
                console="off",
                silent=True,
                x_disable_stats=True,
                disable_git=True,
                disable_code=True,
                x_save_requirements=False,
                x_disable_meta=True,
            ),
        )

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


def delete(settings: Settings, wandb_id: str) -> None:
    """A run on W&B."""
    import wandb

    path = "/".join(filter(None, [settings.entity, settings.project, wandb_id]))
    wandb.Api().run(path).delete()


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
    data = [[i, *values] for i, values in enumerate(zip(*columns, strict=True))]
    return wandb.Table(columns=["image", *names], data=data)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
