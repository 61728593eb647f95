"""Benchmark of the predicted time of long rows, on which admission and batching rely."""

from statistics import median
from time import perf_counter
from typing import Final, cast

from loadtest.bench.setup import Setup
from services.inference.bundle import VariantName, open_bundle
from services.inference.cost import Cost, Size
from services.inference.loader import measure_cost
from services.inference.session import Session
from services.inference.tokenizer import Input

_LENGTHS: Final = (32, 128, 256, 512, 1024, 2048)
_LINE: Final = (4, 128)
_RUNS: Final = 3


def cost(plan: Setup) -> None:
    """Compare the predicted time of rows of one text with the measured one, with and without the quadratic part."""
    bundle = open_bundle(plan.bundle)
    session = Session(bundle, cast(VariantName, plan.variant))
    longest = bundle.manifest.max_token_count
    lengths = [length for length in _LENGTHS if length <= longest]
    errors: dict[str, dict[int, list[float]]] = {side: {length: [] for length in lengths} for side in ("line", "fit")}
    for _ in range(plan.rounds):
        fits = {
            "line": Cost.fit(*((length, _seconds(session, length)) for length in _LINE)),
            "fit": measure_cost(session, longest=longest),
        }
        for length in lengths:
            seconds = _seconds(session, length)
            for side, fit in fits.items():
                errors[side][length].append(fit.seconds(Size.of([length])) / seconds - 1)
    rows = [[f"{length}", *(f"{median(own[length]):+.0%}" for own in errors.values())] for length in lengths]
    plan.report(("tokens", "error of a line", "error with the quadratic part"), rows, errors)


def _seconds(session: Session, length: int) -> float:
    row, times = Input((1,) * length), []
    for _ in range(_RUNS):
        started = perf_counter()
        session.run([row], session.outputs)
        times.append(perf_counter() - started)
    return min(times)
