"""Verdicts on attacks: measurements compared with bounds. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

# Answers that no request may cause.
_DEFECTS: Final = frozenset({"INTERNAL", "UNKNOWN", "500"})


@dataclass(frozen=True)
class Bounds:
    """What an attack may cost. None is unbounded."""

    growth_mb: float | None = None
    """Growth of the resident memory of any server, from before the attack to its peak."""
    growing: Sequence[str] = ()
    """Servers whose growth is bounded; empty bounds all. Others may fill their caches."""
    processor_s: float | None = None
    """Processor time of any server for one step."""
    health_ms: float = 3_000
    """Longest wait for a health check: the timeout of the readiness probes in `k8s/base`."""
    call_ms: float = 10_000
    """Longest wait for a legitimate call."""
    remaining: float = 1.3
    """Resident memory after the attack, as a multiple of the memory before."""


@dataclass(frozen=True)
class Answer:
    """The answer to one probe."""

    probe: str
    seconds: float
    error: str = ""
    """Empty when it was answered well."""
    is_health: bool = False


@dataclass(frozen=True)
class Measured:
    """What one step of an attack cost, or all of them together."""

    step: str
    growth_mb: Mapping[str, float]
    """By server."""
    processor_s: Mapping[str, float]
    """By server."""
    answers: Mapping[str, int] = field(default_factory=dict)
    """Answers that the attacker got, by status."""
    complaints: Sequence[str] = ()
    """What the attack itself found wrong afterwards."""


@dataclass(frozen=True)
class Outcome:
    """Everything measured in one attack."""

    steps: Sequence[Measured]
    probes: Sequence[Answer]
    remaining: Mapping[str, float]
    """By server, memory at the end / memory before."""

    def growth(self, bounds: Bounds) -> tuple[str, float]:
        """Return the bounded server that grew most in any step, and by how many MB."""
        return _most(grown(step, bounds) for step in self.steps)

    @property
    def processor(self) -> tuple[str, float]:
        """The server with the most processor time in one step, and how much."""
        return _most(step.processor_s for step in self.steps)

    @property
    def left(self) -> tuple[str, float]:
        """The server that kept most of its growth, and its memory as a multiple of before."""
        return _most([self.remaining])

    @property
    def failures(self) -> list[Answer]:
        """Probes that were not answered well."""
        return [answer for answer in self.probes if answer.error]

    def longest_ms(self, *, is_health: bool) -> float:
        """Return the longest wait of a probe."""
        return 1000 * max((answer.seconds for answer in self.probes if answer.is_health is is_health), default=0.0)


def broken(outcome: Outcome, bounds: Bounds) -> list[str]:
    """Return a sentence for each bound that does not hold; none when all do."""
    checks = (
        _over_in_steps("memory grew by", outcome.steps, lambda step: grown(step, bounds), bounds.growth_mb, "MB"),
        _over_in_steps("processor time was", outcome.steps, lambda step: step.processor_s, bounds.processor_s, "s"),
        _over("memory after the attack:", outcome.left, bounds.remaining, "x"),
        _over("health checks waited", ("", outcome.longest_ms(is_health=True)), bounds.health_ms, "ms"),
        _over("legitimate calls waited", ("", outcome.longest_ms(is_health=False)), bounds.call_ms, "ms"),
    )
    found = [sentence for sentence in checks if sentence]
    found += [f"{server} has ended" for server, times in outcome.remaining.items() if times == 0]
    if not outcome.probes:
        found.append("no probe was sent: nothing is known about other callers")
    if failures := outcome.failures:
        found.append(
            f"{len(failures)} of {len(outcome.probes)} probes failed: {failures[0].probe}: {failures[0].error}"
        )
    for step in outcome.steps:
        if defects := {status: count for status, count in step.answers.items() if status in _DEFECTS}:
            found.append(f"{step.step}: answered {counted(defects)}")
    complaints = [f"{step.step}: {complaint}" for step in outcome.steps for complaint in step.complaints]
    more = f"; {len(complaints) - 1} more of this kind" if len(complaints) > 1 else ""
    return [*found, *(f"{complaint}{more}" for complaint in complaints[:1])]


def grown(step: Measured, bounds: Bounds) -> Mapping[str, float]:
    """Return the growth of the servers that are bounded."""
    return {name: grew for name, grew in step.growth_mb.items() if name in bounds.growing or not bounds.growing}


def counted(answers: Mapping[str, int]) -> str:
    """Return `OK 3, UNIMPLEMENTED 2`, the most frequent first."""
    ordered = sorted(answers.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{status} {count}" for status, count in ordered)


def _over(what: str, measured: tuple[str, float], bound: float | None, unit: str) -> str:
    server, value = measured
    if bound is None or value <= bound:
        return ""
    where = f" ({server})" if server else ""
    return f"{what} {value:.4g} {unit}{where}, expected at most {bound:.4g}"


def _over_in_steps(
    what: str,
    steps: Sequence[Measured],
    value_of: Callable[[Measured], Mapping[str, float]],
    bound: float | None,
    unit: str,
) -> str:
    """Return a sentence about the worst step over the bound, and how many other steps are over it."""
    if bound is None:
        return ""
    over = [(*_most([value_of(step)]), step.step) for step in steps if _most([value_of(step)])[1] > bound]
    if not over:
        return ""
    server, value, step = max(over, key=lambda one: one[1])
    others = f"; {len(over) - 1} more of {len(steps)} steps are over it" if len(over) > 1 else ""
    return f"{step}: " + _over(what, (server, value), bound, unit) + others


def _most(by_server: Iterable[Mapping[str, float]]) -> tuple[str, float]:
    pairs = [(value, server) for one in by_server for server, value in one.items()]
    value, server = max(pairs, default=(0.0, ""))
    return server, value
