"""Measure an attack: before, at the peak of each step, and after, while others are served."""

import resource
from collections.abc import Callable, Sequence

import grpc
from sluice.cli.console import CommandFailed, err

from loadtest.attacks.attack import Attack, Result, Step, Target
from loadtest.attacks.probing import Probe, probing
from loadtest.attacks.usage import Watch
from loadtest.attacks.verdict import Measured, Outcome


def measure(attack: Attack, target: Target, probes: Sequence[Probe], settle_s: float, most_mb: float) -> Outcome:
    """Run the steps of an attack until they end, or a server does. Return what they cost."""
    _allow_descriptors()
    servers = dict(target.servers)
    if target.guarded is not None:
        servers["guarded"] = target.guarded
    watch = Watch({name: one.pid for name, one in servers.items()}, most_mb)
    steps = []
    with probing(probes) as prober:
        prober.first()
        watch.begin()
        for step in attack.steps(target):
            err.print(f"  {attack.name}: {step.name}", style="dim")
            if step.is_warm_up:
                step.run()
                watch.begin()
                continue
            steps.append(_step(step, watch))
            if watch.ended():
                break
        remaining = watch.settle(attack.bounds(target).remaining, settle_s)
        return Outcome(steps, prober.stop(), remaining)


def _step(step: Step, watch: Watch) -> Measured:
    ordinary = _grown(step.ordinary, watch)[1] if step.ordinary else {}
    result, peak = _grown(step.run, watch)
    growth = {server: grew - ordinary.get(server, 0.0) for server, grew in peak.items()}
    return Measured(step.name, growth, watch.used_s(), dict(result.answers), tuple(result.complaints))


def _grown(work: Callable[[], Result], watch: Watch) -> tuple[Result, dict[str, float]]:
    """Return what some work got, and the growth from before the attack to the peak of the work, by server in MB."""
    watch.lap()
    with watch.sampling():
        result = _sent(work)
    return result, watch.growth_mb()


def _sent(work: Callable[[], Result]) -> Result:
    """Return what some work got. Work that cannot go on, for example because a server has ended, is a complaint."""
    try:
        return work()
    except (OSError, grpc.RpcError, CommandFailed) as error:
        return Result(complaints=[f"the attack could not go on: {error}"[:300]])


def _allow_descriptors() -> None:
    """Let this process open as many connections as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
