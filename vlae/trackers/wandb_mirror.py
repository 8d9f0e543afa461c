"""The mirror on Weights & Biases: the only module that imports wandb."""

import contextlib
import http.client
import io
import os
import random
import re
import ssl
import time
import urllib.error
import urllib.request
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vlae.config.schema import Tracker
from vlae.errors import UserError
from vlae.runs import snapshot
from vlae.runs.lease import now
from vlae.system.disk import RecordError
from vlae.system.files import make_directory, read_bytes, write_json
from vlae.system.npz import Archive
from vlae.trackers.run_history import OFFLINE, WANDB, Epochs, RunHistory, flat, generation, wandb_id

ANSWER_WITHIN = 5.0  # seconds within which W&B's address has to answer
INIT_WITHIN = 15.0  # seconds that W&B has to answer at the start; then the run continues offline
FINISH_WITHIN = 30.0  # seconds that W&B has to take the rest at the end, unless a caller waits less
LOOKS, PATIENT_LOOKS = 3, 15
"""Number of looks at what has arrived, one per second, during a run and in `vlae sync`: the service shows it late."""
JITTER = 10.0
"""Seconds over which Slurm jobs that start together are spread; a local queue starts a few at a time."""
PATIENCE = 60.0  # seconds that a run waits for another process that sends it: the attempt before, or a sync
LIKE_A_KEY = re.compile(r"(local-)?[0-9A-Za-z_]{40,}")
STATES = {"done": 0, "failed": 1}
"""Exit codes by which W&B calls a run finished or failed; it calls others crashed or preempted."""


class WandbError(UserError, RuntimeError):
    """Weights & Biases cannot be reached, or refuses."""


class NoAccess(WandbError):
    """There are no credentials, or Weights & Biases does not answer."""


class Busy(WandbError):
    """Another process sends this run."""


class WandbMirror:
    """A run while it lasts, online or offline; what W&B has already is not sent again.

    One process at a time sends a run: two would overwrite each other's steps of its history.
    """

    def __init__(self, run_history: RunHistory, *, later: bool = False, rebuild: bool = False) -> None:
        """later: upload whatever configuration and environment say, with an error if W&B does not take it. Otherwise
        they decide, and the run is logged offline if W&B cannot be reached. rebuild: from the first step, as a new id.
        """
        self.run_history, self._later, self._rebuild = run_history, later, rebuild
        self._mode, self._notes = "", dict[str, Any]()
        self._run: Any = None
        self._lock = FileLock(run_history.place / "lock")
        self._epochs = Epochs(run_history.directory.path)
        self.arrived = False
        """True once W&B is known to have everything that the run directory held at the end."""

    def start(self) -> None:
        """Errors: Busy, only with ``later``."""
        if reason := self._go_online():
            if self._mode == "online":
                client().teardown()  # it holds the id
            self._lock.release()
            self._init("offline")
        for key in ("epoch", "global_step"):
            self._run.define_metric(key)
        self._run.define_metric("*", step_metric="epoch")
        if self._mode == "online":  # W&B knows best how much it has
            self._notes["sent"] = self._run.starting_step
        self._write_notes(complete=False, told=None, reason=reason or None)
        if self._mode == "online":
            (self.run_history.place / f"{OFFLINE}.json").unlink(missing_ok=True)

    def _go_online(self) -> str:
        """The reason why it cannot; empty if it is online."""
        try:
            if not self._later:
                os.environ.update(client_places(self.run_history.place / "wandb-client"))
                if reason := why_offline(self.run_history.settings.mode):
                    return reason
            self._acquire()
            if not self._later:
                time.sleep(jitter())
                if reason := unreachable():
                    return reason
            self._init("online")
        except Exception as error:
            if self._later:
                raise
            return explain(error)
        return ""

    def _acquire(self) -> None:
        """Take the lock of this run. Busy: another process sends the run, and does not end in time."""
        make_directory(self.run_history.place)
        try:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                if self._later:
                    raise
                print("another process is sending this run; waiting", flush=True)
                self._lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise Busy("it is being sent by another process") from error
        except (OSError, NotImplementedError):  # a file system without locks: the run's claim suffices
            pass

    def catch_up(self) -> None:
        """Send the steps that are new."""
        sent = self._notes["sent"]
        for number, step in self._epochs.more():
            if number >= sent:
                self._run.log(step | _images({k: v for k, v in step.items() if isinstance(v, Path)}))
        if self._epochs.length > sent:
            self._write_notes(sent=self._epochs.length)

    def finish(self) -> None:
        """Send the rest and the results, end the run there, and note what has arrived."""
        self.catch_up()
        status, steps = self.run_history.directory.status(), self._epochs.length
        results = self.run_history.directory.results() if status["state"] == "done" else None
        summary = {f"status/{key}": status[key] or "" for key in ("state", "reason", "message")}
        self._run.summary.update(summary | flat(results or {}))
        if results is not None:
            if self._notes["sent"] == steps:
                self._run.log(self._last_step(results))
                self._notes["sent"] += 1
            if self.run_history.settings.artifacts:
                self._log_model()
        elif status["state"] != "failed":  # it continues, or may
            self._run.mark_preempting()
        self._run.finish(exit_code=STATES.get(status["state"], 255))
        if self._mode == "online" and (self._later or results is not None):
            whole = self._notes["sent"] >= steps + (results is not None)
            self.arrived = whole and self._has_arrived(results is not None)
        self._write_notes(
            complete=self.arrived and results is not None,
            told=digest(self.run_history, self._epochs) if self.arrived else None,
        )
        self._lock.release()

    def give_up(self, error: BaseException) -> None:
        """End the client's work on this run, or the next run of this process would continue it."""
        wandb = client()
        if wandb.run is not None:
            with contextlib.suppress(Exception):
                wandb.run.finish(exit_code=255)
        with contextlib.suppress(Exception):
            wandb.teardown()
        if isinstance(error, Exception) and not isinstance(error, Busy):  # else the other process knows more
            with contextlib.suppress(RecordError):
                self._write_notes(reason=explain(error))
        self._lock.release()

    def _last_step(self, results: dict[str, Any]) -> dict[str, Any]:
        pictures = {f"final/{name}": file for name, file in self.run_history.last_pictures().items()}
        step = {"epoch": results["epochs"], **_images(pictures)}
        if (file := self.run_history.directory.path / "test_log_likelihood.npz").exists():
            step["test/per_image"] = per_image_table(file)
        return step

    def _log_model(self) -> None:
        """The last checkpoint, which holds the best epoch's model."""
        file = self.run_history.directory.path / "checkpoints" / "last.pt"
        if file.exists():
            artifact = client().Artifact(f"{self._run.id}-model", "model")
            artifact.add_file(str(file))
            self._run.log_artifact(artifact)

    def _has_arrived(self, done: bool) -> bool:
        """Ask W&B: a key that is refused during the run ends the client's work silently."""
        path = f"{self._run.entity}/{self._run.project}/{self._run.id}"
        for _ in range(PATIENT_LOOKS if self._later else LOOKS):
            there = client().Api(timeout=10).run(path)
            if there.lastHistoryStep + 1 >= self._notes["sent"] and ("run_id" in there.summary or not done):
                return True
            time.sleep(1)
        return False

    def _init(self, mode: str) -> None:
        settings, place, wandb = self.run_history.settings, make_directory(self.run_history.place), client()
        run_id = self.run_history.directory.run_id
        self._mode = mode
        number = generation(self.run_history.directory.path) + self._rebuild or 1
        sent = [self.run_history.notes_of(name).get("sent", 0) for name in (WANDB, OFFLINE)]
        self._notes = {"generation": number, "sent": max(sent), **self._notes}
        self._run = wandb.init(
            id=wandb_id(run_id, number),
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            name=settings.name or run_id,
            tags=self.run_history.tags,
            notes=self.run_history.describe(snapshot.code_description()),
            config=self.run_history.shown_config,
            dir=str(place),
            mode=mode,
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

    def _write_notes(self, **changes: Any) -> None:
        """Write the notes. Only the process that holds the lock records what W&B has."""
        self._notes.update(changes)
        online = self._mode == "online"
        about = {"mode": self._mode, "updated": now()}
        if self._run is not None:
            about |= {"id": self._run.id, "url": self._run.url if online else None}
        elif online:
            return
        name, place = WANDB if online else OFFLINE, make_directory(self.run_history.place)
        write_json(place / f"{name}.json", self.run_history.notes_of(name) | self._notes | about)


def _images(pictures: dict[str, Path]) -> dict[str, Any]:
    return {name: client().Image(str(file)) for name, file in pictures.items()}


def digest(run_history: RunHistory, epochs: Epochs | None = None) -> list[Any]:
    """The part of a run directory that can change: while it is the same, there is nothing new to send.

    epochs: the history as far as it was read; None: all of it.
    """
    if epochs is None:
        epochs = Epochs(run_history.directory.path)
        epochs.more()
    status = run_history.directory.status()
    return [status["state"], status["attempt"], epochs.length]


def delete(settings: Tracker, wandb_id: str) -> bool:
    """Delete a run on W&B. Returns False if it was not there: an offline run may never have arrived."""
    wandb = client()
    path = "/".join(filter(None, [settings.entity, settings.project, wandb_id]))
    try:
        found = wandb.Api().run(path)
    except (wandb.errors.CommError, ValueError) as error:
        if "could not find" not in str(error).lower():
            raise
        return False
    found.delete()
    return True


@cache
def client() -> Any:
    """The package ``wandb``, made silent, and independent of variables that override its arguments or log keys.

    Changes the environment of this process.
    """
    # without internet, its error reports delay the end of a process by 20 seconds
    os.environ.update(WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
    for name in ("WANDB_DEBUG", "WANDB_CORE_DEBUG", "WANDB_MODE"):
        os.environ.pop(name, None)
    import wandb

    return wandb


def client_places(folder: Path) -> dict[str, str]:
    """Environment variables that keep the client's files in ``folder``, except those that the user has set."""
    places = {f"WANDB_{name}_DIR": str(folder) for name in ("CACHE", "DATA")}
    return {name: place for name, place in places.items() if name not in os.environ}


def why_offline(asked: str) -> str:
    """The reason why a run with this tracker.mode is offline, as far as this machine knows; empty: it is online."""
    mode = os.environ.get("WANDB_MODE") if asked == "auto" else asked
    if mode in ("offline", "dryrun"):
        return "offline"
    return "" if has_key() else "offline, without a key"


def has_key() -> bool:
    """True if this user has a key for W&B, in the environment or by `wandb login`. Sends nothing.

    The client has no public function for the key that `wandb login` stored: only its own search knows where the netrc
    file is, and for which machine of it.
    """
    settings = client().setup().settings
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib.wbauth import read_netrc_auth

    try:
        netrc = read_netrc_auth(host=settings.base_url)
    except AuthenticationError:  # a malformed one, which the client reports
        return True
    return bool(settings.api_key or settings.identity_token_file or netrc)


def check_access() -> None:
    """NoAccess: there is no key, or W&B does not answer."""
    try:
        key = has_key()
    except Exception as error:  # settings that the client refuses
        raise NoAccess(f"Weights & Biases: {explain(error)}") from error
    if not key:
        url = client().setup().settings.base_url
        raise NoAccess(f"no key for Weights & Biases at {url}: set WANDB_API_KEY, or run `wandb login`")
    if trouble := unreachable():
        raise NoAccess(f"Weights & Biases: {trouble}")


def unreachable() -> str:
    """The reason why W&B's address does not answer; empty if it does, with any answer.

    Without a network, the client itself says after half a minute that it could not verify credentials.
    """
    url = client().setup().settings.base_url
    try:
        urllib.request.urlopen(url, timeout=ANSWER_WITHIN).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLError):  # the client may know the certificate
            return ""
        return f"{url} could not be reached ({_in_one_line(reason)})"
    return ""


def explain(error: Exception) -> str:
    """A problem with W&B in one line."""
    if isinstance(error, UserError):
        return str(error)
    with contextlib.suppress(Exception):  # settings that the client refuses
        if trouble := unreachable():
            return trouble
    # its advice is about settings that are set here
    text = _in_one_line(error).partition(" Consider increasing")[0]
    what = "the key is refused" if re.search(r"\b40[13]\b", text) else "it fails or refuses"
    return f"{what}: {text} ({type(error).__name__})"


def jitter() -> float:
    """Seconds that this job waits before its first request."""
    return random.uniform(0, JITTER) if "SLURM_JOB_ID" in os.environ else 0.0


def per_image_table(file: Path) -> Any:
    """The W&B table of each test image's log-likelihood and ELBO by each proposal, in nats."""
    try:
        archive = Archive(io.BytesIO(read_bytes(file) or b""))
        names = sorted(name for name in archive.names if name.startswith(("elbo", "log_likelihood")))
        columns = {name: array.tolist() for name, array in archive.read(names).items()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RecordError(f"{file.name} cannot be read ({_in_one_line(error)})") from error
    data: list[Any] = [[i, *values] for i, values in enumerate(zip(*columns.values(), strict=True))]
    return client().Table(columns=["image", *columns], data=data)


def _in_one_line(error: object) -> str:
    """One line of at most 300 characters, with anything like a key masked."""
    return LIKE_A_KEY.sub("***", " ".join(str(error).split()))[:300]
