"""Chains of modules give what sentence-transformers gives; a broken chain ends in a sentence and writes nothing."""

import json
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sluice.common.v1.document_pb2 import Document
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.search.v1 import search_service_pb2 as search_pb

from services.embedding import server as embedding
from services.embedding.settings import EmbeddingSettings
from services.inference.bundle import open_bundle
from services.inference.session import Session
from services.inference.tokenizer import Tokenizer
from services.retrieval import server as retrieval
from services.retrieval.settings import RetrievalSettings
from services.rpc.server.lifecycle import serving
from tests.support.bundles import export_tiny
from tests.support.checkpoints import (
    MAX_TOKEN_COUNT,
    DenseSpec,
    write_bi_encoder,
    write_chain,
    write_model2vec,
    write_static,
)
from tests.support.fake_services import OverlapReranker, orchestrator, reranking_server
from tests.support.servers import embedding_server
from tests.support.tiny_decoders import write_decoder_body
from tests.support.tiny_models import ENCODERS, write_model

Vectors = np.ndarray[Any, np.dtype[np.float32]]

# Lengths from empty to truncated, and characters that the vocabulary does not have.
TEXTS = ["", "x", "What does yield do?", "größer than ☃", "a class is a callable " * 3, "for each item in turn " * 40]


def served(bundle: Path) -> tuple[Vectors, Vectors]:
    """Return what a server's session gives for the texts in one batch, and for each text alone."""
    opened = open_bundle(bundle)
    tokenizer = Tokenizer(bundle / "tokenizer.json", max_token_count=opened.manifest.max_token_count)
    rows = [tokenizer.single(ids, "end") for ids in tokenizer.tokenize(TEXTS)]
    session = Session(opened, "fp32")
    batched = session.run(rows, ["dense"])["dense"]
    return batched, np.concatenate([session.run([row], ["dense"])["dense"] for row in rows])


def expected_of(checkpoint: Path, texts: Sequence[str] = TEXTS) -> Vectors:
    """Return what sentence-transformers gives for each text alone."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(checkpoint), device="cpu")
    return np.stack([model.encode(text) for text in texts])


def assert_equal(given: Vectors, expected: Vectors) -> None:
    """Compare directions and lengths."""
    norms = np.linalg.norm(given, axis=1), np.linalg.norm(expected, axis=1)
    assert ((given * expected).sum(axis=1) / (norms[0] * norms[1])).min() >= 0.9999
    np.testing.assert_allclose(*norms, rtol=1e-4)
    unit = expected / norms[1][:, None]
    assert np.median((unit @ unit.T)[np.triu_indices(len(unit), 1)]) < 0.9, "texts that all look alike prove nothing"


CHAINS: dict[str, dict[str, Any]] = {
    "labse": {"pooling": "cls", "dense": [DenseSpec(32, "Tanh")]},
    "activations": {
        "pooling": "max",
        "dense": [DenseSpec(40, "GELU"), DenseSpec(40, "SiLU"), DenseSpec(40, "Sigmoid")],
    },
    "tokens": {"token_dense": DenseSpec(24, "ReLU"), "normalize": False},
    "cls-and-mean": {"pooling": ("cls", "mean"), "dense": [DenseSpec(16, "Tanh")]},
    "all-poolings": {"pooling": ("lasttoken", "mean_sqrt_len_tokens", "weightedmean", "max"), "normalize": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_equals_sentence_transformers(tmp_path: Path, name: str) -> None:
    checkpoint = write_bi_encoder(tmp_path / "model", **CHAINS[name])
    batched, alone = served(export_tiny(checkpoint, tmp_path / "out"))
    assert_equal(batched, expected_of(checkpoint))
    assert_equal(alone, batched)


@pytest.mark.slow
def test_gtr_equals_sentence_transformers(tmp_path: Path) -> None:
    """T5, mean, Dense without bias, Normalize."""
    body = write_model(tmp_path / "body", next(item for item in ENCODERS if str(item) == "t5"))
    checkpoint = write_chain(tmp_path / "model", body, dense=[DenseSpec(48, has_bias=False)])
    batched, alone = served(export_tiny(checkpoint, tmp_path / "out"))
    assert_equal(batched, expected_of(checkpoint))
    assert_equal(alone, batched)


@pytest.mark.slow
def test_embedding_gemma_equals_sentence_transformers(tmp_path: Path) -> None:
    """A bidirectional Gemma 3, mean, two Dense without bias, Normalize."""
    body = write_decoder_body(tmp_path / "body", "embedding-gemma")
    dense = [DenseSpec(128, has_bias=False), DenseSpec(32, has_bias=False)]
    checkpoint = write_chain(tmp_path / "model", body, dense=dense)
    batched, alone = served(export_tiny(checkpoint, tmp_path / "out"))
    assert_equal(batched, expected_of(checkpoint))
    assert_equal(alone, batched)


@pytest.mark.slow
def test_a_dense_may_follow_the_normalization(tmp_path: Path) -> None:
    checkpoint = write_bi_encoder(tmp_path / "model", dense=[DenseSpec(16, "Tanh")])
    modules = json.loads((checkpoint / "modules.json").read_text())
    modules[2], modules[3] = modules[3], modules[2]
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    assert_equal(served(export_tiny(checkpoint, tmp_path / "out"))[0], expected_of(checkpoint))


@pytest.mark.slow
def test_poolings_and_normalization_are_replaced_and_dense_modules_stay(tmp_path: Path) -> None:
    """A checkpoint with the same weights that states the options gives the expected vectors."""
    given, stated = tmp_path / "given", tmp_path / "stated"
    write_bi_encoder(given, ("mean", "max"), dense=[DenseSpec(16, "Tanh")])
    write_bi_encoder(stated, ("cls", "mean"), dense=[DenseSpec(16, "Tanh")], normalize=False)
    bundle = export_tiny(given, tmp_path / "out", pooling=("cls", "mean"), normalize=False)
    assert_equal(served(bundle)[0], expected_of(stated))
    assert open_bundle(bundle).manifest.source.options["pooling"] == "cls+mean"


@pytest.mark.slow
def test_a_transformer_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    """Older versions of sentence-transformers saved it so."""
    checkpoint = write_bi_encoder(tmp_path / "model", "cls")
    body = checkpoint / "0_Transformer"
    body.mkdir()
    for path in checkpoint.iterdir():
        if path.is_file() and path.name not in {"modules.json", "config_sentence_transformers.json"}:
            path.rename(body / path.name)
    modules = json.loads((checkpoint / "modules.json").read_text())
    modules[0]["path"] = body.name
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    bundle = export_tiny(checkpoint, tmp_path / "out")
    assert_equal(served(bundle)[0], expected_of(checkpoint))
    assert open_bundle(bundle).manifest.max_token_count == MAX_TOKEN_COUNT


@pytest.mark.slow
def test_a_pickle_of_a_dense_needs_trust(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from export.errors import ExportError

    checkpoint = write_bi_encoder(tmp_path / "model", dense=[DenseSpec(16, "Tanh")])
    weights = checkpoint / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ExportError, match=r"pytorch_model\.bin.*--trust-pickle"):
        export_tiny(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    bundle = export_tiny(checkpoint, tmp_path / "out", trust_pickle=True)
    assert_equal(served(bundle)[0], expected_of(checkpoint))


ENTRY = "sentence_transformers.sentence_transformer.modules"
TRANSFORMER = {"path": "", "type": f"{ENTRY}.transformer.Transformer"}
POOLING = {"path": "1_Pooling", "type": f"{ENTRY}.pooling.Pooling"}
DENSE = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}


@pytest.fixture(scope="module")
def chain_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bi_encoder(tmp_path_factory.mktemp("broken") / "model", dense=[DenseSpec(16, "Tanh")])


BROKEN: dict[str, tuple[str, object, str]] = {
    "pooling of a number": ("1_Pooling/config.json", {"pooling_mode": 5}, "pooling_mode.*found 5"),
    "pooling to a word": ("1_Pooling/config.json", {"pooling_mode": "mean", "embedding_dimension": "x"}, "found 'x'"),
    "dense of a word": ("2_Dense/config.json", {"in_features": "x"}, "in_features.*found 'x'"),
    "dense of lists": ("2_Dense/config.json", {"module_input_name": ["x"]}, "module_input_name"),
    "routes of a number": ("router_config.json", {"types": {}, "structure": {"query": 3}}, "structure.query"),
    "no routes": ("router_config.json", {"types": {}, "structure": {}}, "expected a Router alone"),
    "no modules": ("modules.json", [], "expected Transformer, Pooling"),
    "two poolings": ("modules.json", [TRANSFORMER, POOLING, POOLING], "expected Transformer, Pooling, and any number"),
    "no pooling": ("modules.json", [TRANSFORMER, DENSE], "found .*Dense"),
    "unknown module": ("modules.json", [TRANSFORMER, {**POOLING, "type": f"{ENTRY}.WordWeights"}], "WordWeights"),
    "code of its own": ("modules.json", [TRANSFORMER, {**POOLING, "type": "custom.Pooling"}], "found .*custom.Pooling"),
    "another folder": (
        "modules.json",
        [TRANSFORMER, {**POOLING, "path": "../x"}],
        "inside the checkpoint, found '../x'",
    ),
    "no list": ("modules.json", {"path": ""}, "expected a list of objects with type and path"),
    "no path": ("modules.json", [{"type": "x"}], "expected a list of objects with type and path"),
    "pooling of another length": (
        "1_Pooling/config.json",
        {"embedding_dimension": 64},
        "64 dimensions before it, found 32",
    ),
    "unknown pooling": ("1_Pooling/config.json", {"pooling_mode": ["mean", "median"]}, "found mean, median"),
    "unknown activation": (
        "2_Dense/config.json",
        {"activation_function": "torch.nn.Softmax"},
        "found torch.nn.Softmax",
    ),
    "foreign activation": ("2_Dense/config.json", {"activation_function": "torch.hub.load"}, "found torch.hub.load"),
    "another length": (
        "2_Dense/config.json",
        {"in_features": 64, "activation_function": "torch.nn.Tanh"},
        "from 64 to 16",
    ),
    "no bias": ("2_Dense/config.json", {"bias": False, "activation_function": "torch.nn.Tanh"}, "found .*linear.bias"),
    "other features": ("2_Dense/config.json", {"module_output_name": "x"}, "found sentence_embedding and x"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_chain_is_refused(chain_checkpoint: Path, tmp_path: Path, name: str) -> None:
    from export.errors import ExportError

    file, content, message = BROKEN[name]
    checkpoint = Path(shutil.copytree(chain_checkpoint, tmp_path / "model"))
    (checkpoint / file).write_text(json.dumps(content))
    with pytest.raises(ExportError, match=message):
        export_tiny(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dense_that_does_not_fit_its_input_is_refused(tmp_path: Path) -> None:
    from export.errors import ExportError

    checkpoint = write_bi_encoder(tmp_path / "model", dense=[DenseSpec(16)])
    (checkpoint / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": ["cls", "mean"]}))
    with pytest.raises(ExportError, match="Dense in 2_Dense: expected vectors of 32 dimensions before it, found 64"):
        export_tiny(checkpoint, tmp_path / "out")


def test_pooling_without_the_prompt_is_refused_if_there_is_one(tmp_path: Path) -> None:
    from export.checkpoint.reader import read_checkpoint
    from export.errors import ExportError
    from export.options import Options, overridden

    checkpoint = write_bi_encoder(tmp_path / "model", prompts={"query": "query: "})
    (checkpoint / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "mean", "include_prompt": False}))
    with pytest.raises(ExportError, match="include_prompt: false"):
        overridden(read_checkpoint(str(checkpoint)), Options())
    assert overridden(read_checkpoint(str(checkpoint)), Options(query_prompt="")).has_modules


STATIC: dict[str, dict[str, Any]] = {
    "static": {},
    "static-as-stored": {"normalize": False},
    "static-with-dense": {"dense": [DenseSpec(16, "Tanh")]},
}


@pytest.mark.parametrize("name", STATIC)
def test_a_static_embedding_equals_sentence_transformers(tmp_path: Path, name: str) -> None:
    checkpoint = write_static(tmp_path / "model", **STATIC[name])
    bundle = export_tiny(checkpoint, tmp_path / "out", fp16=True)
    manifest = open_bundle(bundle).manifest
    assert (set(manifest.variants), manifest.default_variant) == ({"fp32", "fp16"}, "fp32")
    assert manifest.max_token_count == 8192
    batched, alone = served(bundle)
    expected = expected_of(checkpoint)
    if "dense" not in STATIC[name]:
        assert not expected[0].any(), "the mean of no token"
        np.testing.assert_array_equal(batched[0], expected[0])
        batched, alone, expected = batched[1:], alone[1:], expected[1:]
    assert_equal(batched, expected)
    assert_equal(alone, batched)


def test_a_model2vec_table_is_read_as_model2vec_reads_it(tmp_path: Path) -> None:
    """The mean of weighted rows over the known tokens, in unit length."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer as Tokens

    checkpoint = write_model2vec(tmp_path / "model")
    tensors = load_file(checkpoint / "model.safetensors")
    tokens = Tokens.from_file(str(checkpoint / "tokenizer.json"))
    unknown = tokens.token_to_id("[UNK]")
    expected = []
    for text in TEXTS[1:]:
        ids = [index for index in tokens.encode(text, add_special_tokens=False).ids if index != unknown]
        rows = tensors["embeddings"][tensors["mapping"][ids]].astype(np.float32) * tensors["weights"][ids][:, None]
        expected.append(rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0)))
    batched, _ = served(export_tiny(checkpoint, tmp_path / "out"))
    assert_equal(batched[1:], np.stack(expected))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"embedding.weight": np.zeros((8, 24), dtype=np.float32)}, r"a vector for each of \d+ tokens.*found 8"),
        ({"embedding.weight": np.full((2000, 24), np.nan, dtype=np.float32)}, "expected finite weights"),
        (
            {"weight": np.zeros((8, 24), dtype=np.float32)},
            "expected a table of token vectors named embedding.weight or",
        ),
    ],
)
def test_a_broken_table_is_refused(tmp_path: Path, tensors: dict[str, Vectors], message: str) -> None:
    from safetensors.numpy import save_file

    from export.errors import ExportError

    checkpoint = write_static(tmp_path / "model")
    save_file(tensors, next(checkpoint.rglob("model.safetensors")))
    with pytest.raises(ExportError, match=message):
        export_tiny(checkpoint, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("bundle.json"))


@pytest.mark.parametrize("options", [{"pooling": ("cls",)}, {"multi_vector": True}, {"task": "sparse"}])
def test_options_of_transformers_are_refused_for_a_static_embedding(tmp_path: Path, options: dict[str, Any]) -> None:
    from export.errors import ExportError

    with pytest.raises(ExportError, match="expected a transformer, found a static embedding"):
        export_tiny(write_static(tmp_path / "model"), tmp_path / "out", **options)


async def test_texts_without_tokens_are_served(tmp_path: Path) -> None:
    """A static embedding adds no special tokens, so a text of zero-width spaces has no token at all."""
    checkpoint = write_static(tmp_path / "model", normalize=False)
    async with embedding_server(export_tiny(checkpoint, tmp_path / "out")) as channel:
        stub = EmbeddingServiceStub(channel)
        for texts in (["\u200b"], ["\u200b", *TEXTS[1:]], ["\u200b", "\u200b\u200b"]):
            request = pb.EmbedRequest(texts=texts)
            request.representations.append(pb.REPRESENTATION_DENSE)
            response = await stub.Embed(request)
            given = np.frombuffer(response.dense.data, dtype="<f4").reshape(response.dense.shape)
            np.testing.assert_allclose(given, expected_of(checkpoint, texts), atol=1e-5)


async def test_documents_are_found_by_a_static_embedding(tmp_path: Path) -> None:
    checkpoint = write_static(tmp_path / "model")
    bundles = EmbeddingSettings(listen="127.0.0.1:0", bundles=[export_tiny(checkpoint, tmp_path / "out")])
    data = RetrievalSettings(listen="127.0.0.1:0", data=tmp_path / "data")
    (tmp_path / "pipelines.yaml").write_text(
        "default:\n  description: Dense.\n  retrieve: [{name: dense, kind: dense, depth: 6}]\n"
    )
    documents = [Document(document_id=str(number), text=text) for number, text in enumerate(TEXTS) if text]

    async def requests() -> AsyncIterator[search_pb.IndexRequest]:
        yield search_pb.IndexRequest(collection="texts", create_collection=True, documents=documents)

    async with (
        serving(bundles, lambda: embedding.build(bundles)) as embedder,
        serving(data, lambda: retrieval.build(data)) as store,
        reranking_server(OverlapReranker()) as reranking,
        orchestrator(
            listen="127.0.0.1:0",
            embedding=embedder.address,
            retrieval=store.address,
            reranking=reranking,
            pipelines=tmp_path / "pipelines.yaml",
            index_fields=["dense"],
        ) as (search, _),
    ):
        known = [item async for response in search.Index(requests()) for item in response.acknowledgements]
        assert [item.outcome for item in known] == [search_pb.Acknowledgement.OUTCOME_INDEXED] * len(documents)
        answer = await search.Search(search_pb.SearchRequest(collection="texts", query="a class is callable"))
    query, *vectors = expected_of(checkpoint, ["a class is callable", *TEXTS[1:]])
    expected = {str(number): float(query @ vector) for number, vector in enumerate(vectors, 1)}
    scores = {result.document.document_id: result.score for result in answer.results}
    assert list(scores) == sorted(expected, key=lambda name: -expected[name])
    assert scores == pytest.approx(expected, abs=1e-3)
