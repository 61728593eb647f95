#!/usr/bin/env python3
"""Measure everything on the GPU machine, after every part was taken there. Run it in the checkout.

    python3 /tmp/sluice-gpu/kit/check.py
    python3 /tmp/sluice-gpu/kit/check.py --only opens,parity     some steps
    python3 /tmp/sluice-gpu/kit/check.py --cpu                   a rehearsal without a GPU, in some minutes

Each step is a process of its own with a time limit, and a step that fails does not keep the others from running.
Results are lines of JSON in results.jsonl, with a log per step beside it: in --out, else in $OUT, else below --home.
The exit status is 1 when a step failed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

_MEASURE: Final = Path(__file__).resolve().with_name("measure.py")
# In the order of their worth, with seconds at most.
_STEPS: Final = {
    "opens": 60,
    "packed": 40,
    "parity": 60,
    "peer": 80,
    "natural": 50,
    "service": 220,
    "lost": 100,
    "inprocess": 110,
    "processes": 100,
    "placed": 40,
    "engines": 240,
}
_LEAST_S: Final = 10.0
_REHEARSAL_FACTOR: Final = 4  # a rehearsal runs on fewer and slower cores


def main() -> None:
    """Run the steps in turn, and print how each ended."""
    given = _arguments()
    out = (given.out or Path(os.environ.get("OUT") or given.home / "out")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "KIT_HOME": str(given.home.resolve()),
        "KIT_PROJECT": str(given.project.resolve()),
        "KIT_OUT": str(out),
        "KIT_ON_CPU": "1" if given.cpu else "0",
    }
    sys.dont_write_bytecode = True
    wanted = given.only.split(",") if given.only else list(_STEPS)
    if unknown := set(wanted) - set(_STEPS):
        raise SystemExit(f"--only: {', '.join(sorted(unknown))} is no step; the steps are {', '.join(_STEPS)}")
    if missing := _missing_parts(given.home):
        raise SystemExit(missing)
    outcomes = _run_all(wanted, out, time.monotonic() + given.seconds, _REHEARSAL_FACTOR if given.cpu else 1)
    print(f"\n== {out}/results.jsonl")
    for name, outcome in outcomes.items():
        print(f"{name:10} {outcome}")
    sys.exit(any(not outcome.startswith(("ok", "left out")) for outcome in outcomes.values()))


def _arguments() -> argparse.Namespace:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path("/tmp/sluice-gpu")  # noqa: S108 - the default of `take.py`
    flags.add_argument("--home", type=Path, default=default, help="where the parts are (default: %(default)s)")
    flags.add_argument("--project", type=Path, default=Path.cwd(), help="checkout of Sluice (default: this folder)")
    flags.add_argument("--out", type=Path, help="folder of the results")
    flags.add_argument("--only", default="", help="names of steps, separated by commas (default: all)")
    flags.add_argument("--seconds", type=float, default=540, help="time limit of all steps (default: %(default)s)")
    flags.add_argument("--cpu", action="store_true", help="rehearse without a GPU")
    return flags.parse_args()


def _missing_parts(home: Path) -> str:
    """Return an error when not all parts were taken, else an empty string."""
    have = sorted(path.name for path in (home / "taken").glob("*of*"))
    count = int(have[0].partition("of")[2]) if have else 1
    return "" if len(have) == count else f"{home} has {', '.join(have) or 'no part'}; take the other parts first"


def _run_all(wanted: list[str], out: Path, end: float, factor: int) -> dict[str, str]:
    """Return how each wanted step ended. Stops before the steps that need CUDA when it does not open."""
    from kit import ON_CPU, environment

    outcomes = {}
    for name, most in _STEPS.items():
        if name not in wanted:
            continue
        limit = min(most * factor, end - time.monotonic())
        # The peer runs with the machine's own packages.
        outcomes[name] = _run(name, limit, out, environment(project=name != "peer"))
        if name == "opens" and not ON_CPU and "CUDAExecutionProvider" not in _opened_provider(out):
            print("ONNX Runtime does not open CUDA: the next steps would measure a processor", flush=True)
            wanted = ["peer"]
    return outcomes


def _opened_provider(out: Path) -> str:
    """Return what the step `opens` opened last with the folders of the libraries given."""
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return next((str(line["provider"]) for line in reversed(lines) if line.get("how") == "folders given"), "")


def _run(name: str, limit: float, out: Path, environment: dict[str, str]) -> str:
    """Run a step, and return how it ended. Its output goes to the screen and to a file."""
    if limit < _LEAST_S:
        return "left out: no time"
    print(f"\n== {name}, at most {limit:.0f} s", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, str(_MEASURE), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    with (out / f"{name}.log").open("w") as log:
        killed = False
        while process.poll() is None:
            log.write(_echo(process))
            if time.monotonic() - started > limit:
                killed = True
                os.killpg(process.pid, signal.SIGKILL)  # the step and what it started
                process.wait()
            time.sleep(0.1)
        log.write(_echo(process))
    how = "took too long" if killed else "failed" if process.returncode else "ok"
    return f"{how:16} {time.monotonic() - started:6.1f} s"


def _echo(process: subprocess.Popen[bytes]) -> str:
    """Print and return what a process wrote since the last call."""
    assert process.stdout
    os.set_blocking(process.stdout.fileno(), False)
    text = (process.stdout.read() or b"").decode(errors="replace")  # None: nothing new
    sys.stdout.write(text)
    sys.stdout.flush()
    return text


if __name__ == "__main__":
    main()
