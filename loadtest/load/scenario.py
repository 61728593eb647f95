"""Scenarios as data: which calls, at which rates, for how long.

description: one sentence
workloads: [Workload, ...]
capacity: Capacity          search for the highest rate that holds first; optional
phases: [Phase, ...]        then run these, one right after the other
rate_unit: per_second | capacity     `capacity`: rates of phases are multiples of the one found
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sluice.cli.console import CommandFailed

from loadtest.load.capacity import Bounds

PACKAGED: Final = Path(__file__).parents[1] / "scenarios"

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Rate = Annotated[float, Field(ge=0, le=1_000_000)]
Duration = Annotated[float, Field(gt=0, le=7 * 24 * 3600)]
Rpc = Literal["search", "embed", "rerank", "retrieve"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Workload(_Part):
    """Calls of one kind."""

    name: Name
    """Its name in results."""
    rpc: Rpc
    """Which RPC."""
    deadline_s: float = Field(gt=0, le=600)
    """Deadline of each call, in seconds."""
    arrivals: Literal["poisson", "constant", "recorded"] = "poisson"
    """How calls come."""
    recording: Path | None = None
    """File of recorded arrivals: seconds since the start, one a line. The rates of phases do not count then."""
    share: float = Field(1.0, gt=0, le=1000)
    """Its calls for each call of a phase's rate."""
    concurrency: int = Field(0, ge=0, le=4096)
    """Over 0: so many callers instead of a rate, each sending when it has its answer, as indexing does."""
    texts: Literal["queries", "sentences", "documents"] = "queries"
    """What `embed` embeds: queries; sentences of documents, which are as short and many more; or whole documents."""
    batch: int = Field(1, ge=1, le=1024)
    """Texts of an `embed` call, documents of a `rerank` call."""
    lane: Literal["interactive", "bulk"] = "interactive"
    """Lane of `embed` and `rerank` calls."""
    pipeline: str = Field("", max_length=128)
    """Pipeline of `search`; empty means the default."""
    top_k: int = Field(10, ge=1, le=1000)
    """Results of `search`, candidates of `retrieve`."""
    model: str = Field("", max_length=128)
    """Model; empty when the server has one."""


class Phase(_Part):
    """A stretch of time with one rate, or with one that changes evenly."""

    name: Name
    """Its name in results."""
    duration_s: Duration
    """How long, in seconds."""
    rate: Rate = 0
    """Calls a second at its start."""
    to_rate: Rate | None = None
    """Calls a second at its end; the same as at its start unless given."""
    measured: bool = True
    """False for a warm-up: it is cut from the results."""
    only: tuple[Name, ...] = ()
    """Workloads that run in it; all unless given."""


class Slo(_Part):
    """What a service promises."""

    p99_s: float = Field(gt=0)
    """Most that the 99th percentile of accepted calls may be, in seconds."""
    error_share: float = Field(0.01, ge=0, le=1)
    """Largest share of calls that are not answered OK within their deadline."""


class Capacity(_Part):
    """A search for the highest rate at which the service level holds."""

    slo: Slo
    """The service level."""
    low_rate: float = Field(1.0, gt=0)
    """Where the search begins, in calls a second."""
    high_rate: float = Field(10_000.0, gt=0)
    """Where it ends at the latest."""
    precision: float = Field(0.1, gt=0, le=1)
    """How near the answer must be; 0.1 is a tenth."""
    warm_up_s: float = Field(2.0, ge=0, le=600)
    """Start of each probe that is cut, in seconds."""
    probe_s: Duration = 10.0
    """Rest of each probe, in seconds."""

    @property
    def bounds(self) -> Bounds:
        """What the search needs."""
        return Bounds(self.low_rate, self.high_rate, self.precision)


class Scenario(_Part):
    """A load test."""

    description: str = Field(min_length=1, max_length=500)
    """One sentence for people."""
    workloads: tuple[Workload, ...] = Field(min_length=1, max_length=16)
    """Kinds of calls."""
    capacity: Capacity | None = None
    """Search for the capacity first."""
    phases: tuple[Phase, ...] = Field((), max_length=100)
    """What is run, in order."""
    rate_unit: Literal["per_second", "capacity"] = "per_second"
    """What rates of phases count."""
    outage_s: float = Field(3.0, gt=0)
    """The run fails when the target is gone for so long, in seconds. A rolling restart wants more."""
    seed: int = 1
    """Of arrivals and of the mix of texts."""

    def problems(self) -> Iterator[str]:
        """What makes no sense; nothing when all does."""
        names = [workload.name for workload in self.workloads]
        if len(set(names)) < len(names):
            yield f"workloads: expected different names, got {', '.join(names)}"
        if not self.phases and self.capacity is None:
            yield "phases: expected at least one, or a capacity search, got neither"
        if self.rate_unit == "capacity" and self.capacity is None:
            yield "rate_unit: expected a capacity search with `capacity`, got none"
        for phase in self.phases:
            if unknown := sorted(set(phase.only) - set(names)):
                yield f"phases.{phase.name}.only: expected names of workloads, got {', '.join(unknown)}"
        for workload in self.workloads:
            if (workload.arrivals == "recorded") != (workload.recording is not None):
                yield f"workloads.{workload.name}.recording: expected a file exactly with `arrivals: recorded`"

    def sped_up(self, factor: float) -> "Scenario":
        """The same with every time divided by `factor`, none under 2 seconds: a look, not a measurement."""
        phases = [phase.model_copy(update={"duration_s": max(2.0, phase.duration_s / factor)}) for phase in self.phases]
        capacity = self.capacity
        if capacity is not None:
            times = {"probe_s": max(2.0, capacity.probe_s / factor), "warm_up_s": capacity.warm_up_s / factor}
            capacity = capacity.model_copy(update={**times, "precision": max(capacity.precision, 0.5)})
        return self.model_copy(update={"phases": tuple(phases), "capacity": capacity})


def names() -> list[str]:
    """The scenarios that come with Sluice."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def load(name_or_path: str) -> Scenario:
    """A packaged scenario by name, or one from a file. Raises CommandFailed naming every problem."""
    path = PACKAGED / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        there = ", ".join(names())
        raise CommandFailed(f"{name_or_path}: expected a scenario ({there}) or a YAML file: {error}") from error
    except yaml.YAMLError as error:
        raise CommandFailed(f"{path}: expected YAML: {error}") from error
    return parse(content, source=str(path))


def parse(content: object, *, source: str) -> Scenario:
    """A scenario from what YAML gave. Raises CommandFailed naming every problem."""
    try:
        scenario = Scenario.model_validate(content)
    except ValidationError as error:
        problems = [
            f"{source}: {'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']}, got {item['input']!r:.80}"
            for item in error.errors(include_url=False)
        ]
        raise CommandFailed("\n".join(problems)) from None
    if problems := [f"{source}: {problem}" for problem in scenario.problems()]:
        raise CommandFailed("\n".join(problems))
    return scenario
