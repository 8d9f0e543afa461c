"""The JSON records of a run: the fields of each, checked by pydantic when a file is read."""

from datetime import datetime
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vlae.config.problems import shown
from vlae.system.disk import RecordError

COUNTS = ("epoch", "epochs", "image", "images")
"""Keys of progress that are shown as a share."""
AS_WRITTEN = ConfigDict(strict=True, extra="allow")
"""No value is converted; keys of other versions stay."""


def _check_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("no time zone")
    return text


_NUMBER = TypeAdapter(FiniteFloat, config=ConfigDict(strict=True))


def _check_progress(progress: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(progress.get("doing", ""), str):
        raise ValueError("doing is no text")
    for key in COUNTS:
        if key in progress:
            _NUMBER.validate_python(progress[key])
    if progress.get("elbo") is not None:  # null: it was not finite
        _NUMBER.validate_python(progress["elbo"])
    return progress


Text = Annotated[str, Field(description="a text")]
Whole = Annotated[int, Field(description="a whole number")]
Number = Annotated[FiniteFloat, Field(description="a number")]
Time = Annotated[str, AfterValidator(_check_time), Field(description="a time with its zone")]
Progress = Annotated[dict[str, Any], AfterValidator(_check_progress)]
RunState = Literal["new", "running", "interrupted", "failed", "done"]


class Claim(TypedDict):
    """attempts/<n>/claim.json: the process that executes a run; also that of a queue or of a launch."""

    __pydantic_config__ = AS_WRITTEN  # pyright: ignore[reportGeneralTypeIssues]
    pid: Annotated[PositiveInt, Field(description="a positive whole number")]
    process_start: Number
    """Seconds from the start of the machine to that of the process."""
    host: Text
    place: Text
    """Machine, boot and container: where process ids mean the same."""
    slurm_job: Annotated[Text | None, Field(description="a text or null")]
    slurm_restarts: Annotated[Whole | None, Field(description="a whole number or null")]
    queue: Annotated[Text | None, Field(description="a text or null")]
    """The queue whose Slurm job executes it: another cluster may have a job of the same id."""
    started: Time
    token: Text
    """Distinguishes our claim from that of another thread."""


class Status(TypedDict):
    """status.json: what the process that executes a run last wrote."""

    __pydantic_config__ = AS_WRITTEN  # pyright: ignore[reportGeneralTypeIssues]
    run_id: Text
    state: Annotated[RunState, Field(description=f"one of {', '.join(get_args(RunState))}")]
    attempt: Annotated[Whole | None, Field(description="a whole number or null")]
    progress: Annotated[Progress | None, Field(description="numbers by their names")]
    updated: Annotated[Time | None, Field(description="a time with its zone or null")]
    """The last sign of life."""
    reason: Annotated[Text | None, Field(description="a text or null")]
    message: Annotated[Text | None, Field(description="a text or null")]
    where: Annotated[Text | None, Field(description="a text or null")]
    """The host of the attempt, and its Slurm job."""
    gpu_seconds: Number
    """GPU time of all attempts together."""
    progressed: Annotated[Time | None, Field(description="a time with its zone or null")]
    """When the attempt last made progress."""


_ADAPTERS = {record: TypeAdapter(record) for record in (Claim, Status)}


def check_claim(file: str, content: dict[str, Any]) -> Claim:
    """The content of a claim.json; keys that older claims lack are null. RecordError: nobody writes such a claim."""
    content = {**dict.fromkeys(Claim.__annotations__), **content}
    return _check(Claim, file, content, "where no process executes this any more, move it away")


def check_status(file: str, content: dict[str, Any]) -> Status:
    """The content of a status.json. RecordError: no run writes such a status."""
    return _check(Status, file, content, "move it away, and the same command continues the run")


def _check(record: Any, file: str, content: dict[str, Any], way_out: str) -> Any:
    try:
        return _ADAPTERS[record].validate_python(content)
    except ValidationError as error:
        key = str(error.errors(include_url=False)[0]["loc"][0])
    hint = get_type_hints(record, include_extras=True)[key]
    described = [each.description for each in hint.__metadata__ if getattr(each, "description", None)]
    text = f"expected {described[-1]}, got {shown(content.get(key))}. It was changed by hand; {way_out}"
    raise RecordError(f"{file}: {key}: {text}")
