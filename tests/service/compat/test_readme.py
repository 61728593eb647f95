"""The Python on the page of the compatible APIs runs against real servers."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.processes import ROOT, running

PAGE = ROOT / "services" / "compat" / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
PRINTED = ["(2, 32) float32\nfloat16\n", r"[[", "32 12\n100\n['[CLS]'", "open() returns a file"]


@pytest.fixture(scope="module")
def addresses(tiny_bi_encoder: Path, tiny_cross_encoder: Path) -> Iterator[dict[str, str]]:
    """Where the servers of the page really are."""
    with ExitStack() as stack:
        embedding = stack.enter_context(running("services.embedding", "--bundles", str(tiny_bi_encoder)))
        reranking = stack.enter_context(running("services.reranking", "--bundles", str(tiny_cross_encoder)))
        yield {"127.0.0.1:50051": embedding.address, "127.0.0.1:50053": reranking.address}


@pytest.mark.parametrize(("snippet", "printed"), list(zip(SNIPPETS, PRINTED, strict=True)))
def test_snippets_run_unchanged(snippet: str, printed: str, addresses: dict[str, str]) -> None:
    for stated, real in addresses.items():
        snippet = snippet.replace(stated, real)
    ran = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert printed in ran.stdout
