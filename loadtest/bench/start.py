"""How long a server takes from its start to ready, and how much memory it then uses."""

from statistics import median

from loadtest.bench import setup
from loadtest.bench.setup import Setup
from loadtest.servers import server


def start(
    bundle: setup.Bundle,
    data: setup.Data,
    variant: setup.Variant = "fp32",
    rounds: setup.Rounds = None,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Seconds from the start of the process to ready, and its memory; of both model servers."""
    plan = Setup("start", bundle, data, variant, quick, out, rounds or (1 if quick else 7))
    figures: dict[str, dict[str, list[float]]] = {}
    for name in ("embedding", "reranking"):
        figures[name] = {"ready_s": [], "memory_bytes": []}
        for _ in range(plan.rounds):
            with server(name, "--bundles", str(bundle), "--variant", variant) as one:
                figures[name]["ready_s"].append(one.ready_s)
                figures[name]["memory_bytes"].append(one.memory_bytes())
    rows = [
        [name, f"{median(own['ready_s']):.2f}", f"{max(own['ready_s']):.2f}", f"{_mib(own['memory_bytes']):.0f}"]
        for name, own in figures.items()
    ]
    plan.tell(("server", "ready s, median", "worst", "memory MiB"), rows, figures)


def _mib(values: list[float]) -> float:
    return median(values) / 2**20
