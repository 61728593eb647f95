"""The adapters for servers of other APIs, against Sluice's own doors; and the benchmark that uses them."""

import json
from pathlib import Path

import pytest
from sluice.cli.console import CommandFailed
from typer.testing import CliRunner

from loadtest.__main__ import app
from loadtest.bench.compat_apis import distances_of, own_doors
from loadtest.load.targets import Texts
from loadtest.peers import kserve
from loadtest.peers.work import embed_work, rerank_work
from tests.support.judged_collection import write_collection
from tests.support.processes import running


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "collection")


@pytest.mark.parametrize("task", ["embed", "rerank"])
def test_every_api_gives_the_same_answer(
    task: str, data: Path, tiny_bi_encoder: Path, tiny_cross_encoder: Path
) -> None:
    bundle = tiny_bi_encoder if task == "embed" else tiny_cross_encoder
    texts = Texts.of(data)
    work = embed_work(texts.queries) if task == "embed" else rerank_work(texts)
    service = "services.embedding" if task == "embed" else "services.reranking"
    with running(service, "--bundles", str(bundle)) as one:
        sides = own_doors(one.address, work, bundle.parent.name)
        assert len(sides) == 3
        ours, *others = (side.first() for side in sides.values())
        assert all(list(other) == pytest.approx(list(ours), abs=1e-6) for other in others)
        assert max(distances_of(work, sides).values()) < 1e-6
        with pytest.raises(CommandFailed, match="nobody"):
            kserve.endpoint(one.address, work, "nobody").first()
        with pytest.raises(CommandFailed, match="expected one of"):
            kserve.endpoint(one.address, work, bundle.parent.name, "logits").first()


def test_the_benchmark_measures_all_apis_and_a_server_by_address(
    data: Path, tiny_bi_encoder: Path, tmp_path: Path
) -> None:
    with running("services.embedding", "--bundles", str(tiny_bi_encoder)) as other:
        flags = ["--bundle", str(tiny_bi_encoder), "--data", str(data), "--quick", "--out", str(tmp_path)]
        addresses = ["--kserve", other.address, "--tei", other.address]
        ran = CliRunner().invoke(app, ["bench", "doors", *flags, *addresses])
    assert ran.exit_code == 0, ran.output
    record = json.loads((tmp_path / "bench-doors-embed-fp32-quick.json").read_text())
    names = [run["name"] for run in record["figures"]["runs"]]
    assert names[:3] == ["sluice", "sluice tei.v1", "sluice KServe v2"]
    assert len(names) == 5
    assert all(run["calls_per_s"][0] > 0 for run in record["figures"]["runs"])
