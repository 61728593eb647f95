"""Measure an attack: before, at the peak of each step, and after, while others are served."""

import resource
from collections.abc import Sequence

from sluice.cli.console import err

from loadtest.attacks.attack import Attack, Step, Target
from loadtest.attacks.probing import Probe, probing
from loadtest.attacks.usage import Watch
from loadtest.attacks.verdict import Measured, Outcome


def measure(attack: Attack, target: Target, probes: Sequence[Probe], settle_s: float) -> Outcome:
    """Run the steps of an attack. Return what they cost."""
    _allow_descriptors()
    servers = dict(target.servers)
    if target.guarded is not None:
        servers["guarded"] = target.guarded
    watch = Watch({name: one.pid for name, one in servers.items()})
    steps = []
    with probing(probes) as prober:
        prober.first()
        watch.begin()
        for step in attack.steps(target):
            err.print(f"  {attack.name}: {step.name}", style="dim")
            watch.lap()
            steps.append(_step(step, watch))
        remaining = watch.settle(attack.bounds(target).remaining, settle_s)
        return Outcome(steps, prober.stop(), remaining)


def _step(step: Step, watch: Watch) -> Measured:
    with watch.sampling():
        result = step.run()
    return Measured(step.name, watch.growth_mb(), watch.used_s(), dict(result.answers), tuple(result.complaints))


def _allow_descriptors() -> None:
    """Let this process open as many connections as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
