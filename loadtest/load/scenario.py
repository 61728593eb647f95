"""Load scenarios as data: which calls, at which rates, for how long.

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
    """Name in results."""
    rpc: Rpc
    """The RPC to call."""
    deadline_s: float = Field(gt=0, le=600)
    """Deadline of each call, in seconds."""
    arrivals: Literal["poisson", "constant", "recorded"] = "poisson"
    """How send times are chosen."""
    recording: Path | None = None
    """File of recorded times: seconds since the start, one per line. The rates of phases are ignored then."""
    share: float = Field(1.0, gt=0, le=1000)
    """Calls per call of a phase's rate."""
    concurrency: int = Field(0, ge=0, le=4096)
    """If over 0, this many callers instead of a rate; each sends its next call when it has the answer."""
    texts: Literal["queries", "sentences", "documents"] = "queries"
    """Texts for `embed`: queries; sentences of documents, which are as short but more numerous; or whole documents."""
    batch: int = Field(1, ge=1, le=1024)
    """Texts per `embed` call, or documents per `rerank` call."""
    lane: Literal["interactive", "bulk"] = "interactive"
    """Lane of `embed` and `rerank` calls."""
    pipeline: str = Field("", max_length=128)
    """Pipeline of `search`; empty means the default."""
    top_k: int = Field(10, ge=1, le=1000)
    """Results of `search`, candidates of `retrieve`."""
    model: str = Field("", max_length=128)
    """Model name; may be empty if the server has only one."""


class Phase(_Part):
    """A period with one rate, or with one that changes linearly."""

    name: Name
    """Name in results."""
    duration_s: Duration
    """Length, in seconds."""
    rate: Rate = 0
    """Calls per second at its start."""
    to_rate: Rate | None = None
    """Calls per second at its end. (default: as at its start)"""
    measured: bool = True
    """False for a warm-up, which is excluded from the results."""
    only: tuple[Name, ...] = ()
    """Workloads that run in it. (default: all)"""


class Slo(_Part):
    """A service level objective."""

    p99_s: float = Field(gt=0)
    """Maximum of the 99th percentile of accepted calls, in seconds."""
    error_share: float = Field(0.01, ge=0, le=1)
    """Maximum share of calls that are not answered with OK within their deadline."""


class Capacity(_Part):
    """A search for the highest rate at which the service level holds."""

    slo: Slo
    """The service level."""
    low_rate: float = Field(1.0, gt=0)
    """First rate to try, in calls per second."""
    high_rate: float = Field(10_000.0, gt=0)
    """Highest rate to try, in calls per second."""
    precision: float = Field(0.1, gt=0, le=1)
    """Relative precision of the result; 0.1 is a tenth."""
    warm_up_s: float = Field(2.0, ge=0, le=600)
    """Excluded time at the start of each probe, in seconds."""
    probe_s: Duration = 10.0
    """Measured time of each probe, in seconds."""

    @property
    def bounds(self) -> Bounds:
        """Limits of the search."""
        return Bounds(self.low_rate, self.high_rate, self.precision)


class Scenario(_Part):
    """A load test."""

    description: str = Field(min_length=1, max_length=500)
    """One sentence for people."""
    workloads: tuple[Workload, ...] = Field(min_length=1, max_length=16)
    """Kinds of calls."""
    capacity: Capacity | None = None
    """Capacity search to run before the phases."""
    phases: tuple[Phase, ...] = Field((), max_length=100)
    """Phases to run, in order."""
    rate_unit: Literal["per_second", "capacity"] = "per_second"
    """Unit of the rates of phases."""
    outage_s: float = Field(3.0, gt=0)
    """Longest time without an answer before the run fails, in seconds. A rolling restart needs more."""
    seed: int = 1
    """Seed of the send times and of the choice of texts."""

    def problems(self) -> Iterator[str]:
        """Yield every inconsistency."""
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
        """Return the scenario with every time divided by `factor`, but at least 2 seconds: only a quick check."""
        phases = [phase.model_copy(update={"duration_s": max(2.0, phase.duration_s / factor)}) for phase in self.phases]
        capacity = self.capacity
        if capacity is not None:
            times = {"probe_s": max(2.0, capacity.probe_s / factor), "warm_up_s": capacity.warm_up_s / factor}
            capacity = capacity.model_copy(update={**times, "precision": max(capacity.precision, 0.5)})
        return self.model_copy(update={"phases": tuple(phases), "capacity": capacity})


def names() -> list[str]:
    """Return the names of the packaged scenarios."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def load(name_or_path: str) -> Scenario:
    """Load a packaged scenario by name, or one from a file. Raises CommandFailed that names every problem."""
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
    """Build a scenario from parsed YAML. Raises CommandFailed that names every problem."""
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
