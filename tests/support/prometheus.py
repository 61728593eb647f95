"""A real Prometheus that scrapes real servers."""

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.require import require
from tests.support.waiting import GUARD_S

ROOT: Final = Path(__file__).parents[2]
MONITORING: Final = ROOT / "k8s" / "components" / "monitoring"
_CONFIGURATION: Final = """
global: {scrape_interval: %s, scrape_timeout: %s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
  - job_name: sluice
    static_configs: [{targets: %s}]
"""


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`, or skip the test; in CI, fail."""
    path = shutil.which(name, path=f"{ROOT / '.venv/prometheus/usr/bin'}:{os.environ['PATH']}")
    return require(path, f"{name} is not installed: run `make test` on Debian")


class Prometheus:
    """A running Prometheus."""

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current series of an expression with their values. Raises AssertionError if it is invalid."""
        arguments = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://{self._address}/api/v1/query?{arguments}", timeout=10) as response:
                result: list[dict[str, Any]] = json.load(response)["data"]["result"]
                return result
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error


@contextmanager
def scraping(targets: Sequence[str], folder: Path, *, every: str = "200ms") -> Iterator[Prometheus]:
    """Run a Prometheus with the repository's rules that scrapes these addresses."""
    configuration = folder / "prometheus.yml"
    configuration.write_text(
        _CONFIGURATION % (every, every, json.dumps(str(MONITORING / "rules.yaml")), json.dumps(list(targets)))
    )
    command = [
        program("prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
    ]
    popen = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
    assert popen.stderr is not None
    with popen.stderr as log:
        try:
            yield Prometheus(_address(log))
        finally:
            popen.terminate()
            log.read()
            popen.wait(GUARD_S)


def _address(log: Any) -> str:
    """Return the address as soon as it is ready for requests."""
    address, lines = "", []
    for line in log:
        lines.append(line)
        if found := re.search(r'msg="Listening on" address=(\S+)', line):
            address = found[1]
        if "Server is ready to receive web requests" in line and address:
            return address
    raise AssertionError("Prometheus did not start:\n" + "".join(lines))
