"""SmolLM2-135M, a real decoder: one system embeds with it, and reranks with it by yes or no and by lists."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sluice.common.v1.document_pb2 import Document
from sluice.search.v1 import search_service_pb2 as pb
from transformers import AutoModelForCausalLM, AutoTokenizer

from export.prompt.options import PromptOptions
from export.prompt.template import IDENTIFIERS, list_template, pair_template
from tests.support.bundles import export_tiny
from tests.support.fake_services import orchestrator
from tests.support.real_models import smollm2_checkpoint
from tests.support.servers import embedding_address, reranking_address, retrieval_address

pytestmark = pytest.mark.slow

QUERY = "how is the water level of a lock controlled?"
TEXTS = [
    "A sluice gate is raised to let water into the lock.",
    "Bread is baked at 220 degrees for half an hour.",
    "The lock keeper opens the upper gates when both levels are equal.",
    "A list is sorted in place by its method sort.",
]
PIPELINES = """
default:
  description: Ranked by yes or no.
  retrieve: [{name: dense, kind: dense, depth: 4}]
  rerank: [{name: rerank, depth: 4, model: yes-no}]
lists:
  description: Ranked as a list.
  retrieve: [{name: dense, kind: dense, depth: 4}]
  rerank: [{name: rerank, depth: 4, model: lists}]
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundles by name: `embedder`, `yes-no` and `lists`."""
    out = tmp_path_factory.mktemp("smollm2")
    options: dict[str, dict[str, Any]] = {
        "embedder": {"task": "bi-encoder", "pooling": ("last-token",), "normalize": True, "max_token_count": 128},
        "yes-no": {"task": "yes-no-reranker", "max_token_count": 256},
        "lists": {"task": "listwise-reranker", "max_token_count": 1024},
    }
    return {name: export_tiny(smollm2_checkpoint(), out, name=name, **given) for name, given in options.items()}


class Original:
    """The model in transformers."""

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(smollm2_checkpoint())
        self._model = AutoModelForCausalLM.from_pretrained(smollm2_checkpoint(), dtype=torch.float32).eval()

    @torch.inference_mode()
    def vector(self, text: str) -> NDArray[np.float32]:
        """The unit vector of the last token, float32 [D]."""
        state = self._model.model(**self.tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1]
        vector: NDArray[np.float32] = torch.nn.functional.normalize(state, dim=0).numpy()
        return vector

    @torch.inference_mode()
    def logits(self, prompt: str, answers: list[str]) -> list[float]:
        """The logits of these tokens after the prompt."""
        logits = self._model(**self.tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        return [float(logits[self.tokenizer.get_vocab()[answer]]) for answer in answers]


async def documents() -> AsyncIterator[pb.IndexRequest]:
    given = [Document(document_id=str(number), text=text) for number, text in enumerate(TEXTS)]
    yield pb.IndexRequest(collection="texts", create_collection=True, documents=given)


async def test_a_real_decoder_embeds_and_reranks(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "pipelines.yaml").write_text(PIPELINES)
    async with (
        embedding_address(bundles["embedder"]) as embedding,
        retrieval_address(tmp_path / "data") as retrieval,
        reranking_address(bundles["yes-no"], bundles["lists"]) as reranking,
        orchestrator(
            listen="127.0.0.1:0",
            embedding=embedding,
            retrieval=retrieval,
            reranking=reranking,
            pipelines=tmp_path / "pipelines.yaml",
            index_fields=["dense"],
        ) as (search, _),
    ):
        known = [item async for response in search.Index(documents()) for item in response.acknowledgements]
        assert [item.outcome for item in known] == [pb.Acknowledgement.OUTCOME_INDEXED] * len(TEXTS)
        answers = {
            name: await search.Search(pb.SearchRequest(collection="texts", query=QUERY, pipeline=name), timeout=300)
            for name in ("default", "lists")
        }

    original = Original()
    found = {name: scores_by_stage(answer) for name, answer in answers.items()}
    vector = original.vector(QUERY)
    dense = {text: float(vector @ original.vector(text)) for text in TEXTS}
    assert found["default"]["dense"] == pytest.approx(dense, abs=1e-3)

    pair = pair_template(original.tokenizer, PromptOptions())
    answered = {text: original.logits(pair.fill(QUERY, (text,)), ["yes", "no"]) for text in TEXTS}
    differences = {text: yes - no for text, (yes, no) in answered.items()}
    assert found["default"]["rerank"] == pytest.approx(differences, abs=1e-3)

    # The list has the order of the stage before.
    given = tuple(sorted(TEXTS, key=lambda text: -dense[text]))
    prompt = list_template(original.tokenizer, PromptOptions()).fill(QUERY, given)
    expected = original.logits(prompt, list(IDENTIFIERS[: len(given)]))
    assert found["lists"]["rerank"] == pytest.approx(dict(zip(given, expected, strict=True)), abs=1e-3)


def scores_by_stage(answer: pb.SearchResponse) -> dict[str, dict[str, float]]:
    """Return the score of each text in each stage."""
    assert not answer.degraded
    stages: dict[str, dict[str, float]] = {}
    for result in answer.results:
        for standing in result.standings:
            stages.setdefault(standing.stage, {})[result.document.text] = standing.score
    return stages
