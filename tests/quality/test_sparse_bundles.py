"""Sparse and late-interaction bundles give over gRPC what the checkpoint's own framework gives."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from sluice.common.v1 import model_pb2
from sluice.common.v1.document_pb2 import Document
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.search.v1 import search_service_pb2 as search_pb

from services.embedding import server as embedding
from services.embedding.settings import EmbeddingSettings
from services.inference.bundle import BundleError, open_bundle
from services.inference.loader import read_query_idf
from services.inference.session import Session
from services.inference.tokenizer import Input, Tokenizer
from services.retrieval.server import build
from services.retrieval.settings import RetrievalSettings
from services.rpc.server.lifecycle import serving
from tests.support.bundles import export_tiny
from tests.support.checkpoints import MAX_TOKEN_COUNT, splade_checkpoint, write_late_interaction, write_sparse_encoder
from tests.support.fake_services import OverlapReranker, orchestrator, reranking_server
from tests.support.servers import embedding_server
from tests.support.tiny_models import Architecture, write_model

pytestmark = pytest.mark.slow

TEXTS = ["how do planes fly", "x", "The wing of a plane is lifted by the air that it pushes down. " * 3]
CORPUS = ["a plane flies", "a boat swims", "a plane lands", "boats and planes"]

Sparse = list[tuple[NDArray[np.int32], NDArray[np.float32]]]


def sparse_of(response: pb.EmbedResponse) -> Sparse:
    ends = np.cumsum(response.sparse.term_counts)[:-1]
    indices = np.split(np.frombuffer(response.sparse.indices.data, dtype="<i4"), ends)
    return list(zip(indices, np.split(np.frombuffer(response.sparse.weights.data, dtype="<f4"), ends), strict=True))


async def embedded(channel: grpc.aio.Channel, texts: list[str], kind: int, role: int = 0) -> pb.EmbedResponse:
    request = pb.EmbedRequest(texts=texts, role=role)  # type: ignore[arg-type]
    request.representations.append(kind)  # type: ignore[arg-type]
    return await EmbeddingServiceStub(channel).Embed(request)


def splade_of(text: str) -> NDArray[np.float32]:
    """Return torch's weights for a text: float32 [V]."""
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = splade_checkpoint()
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits
    weights: NDArray[np.float32] = torch.log(1 + torch.relu(logits)).max(dim=1).values[0].numpy()
    return weights


@pytest.fixture(scope="module")
def idf_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the real SPLADE with weights of query terms, counted in a small corpus."""
    folder = tmp_path_factory.mktemp("idf")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in CORPUS))
    return export_tiny(splade_checkpoint(), folder / "out", name="splade-tiny", query_idf=corpus)


@pytest.fixture(scope="module")
def splade_bundle(idf_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the same without the table, so that the model weighs queries too."""
    folder = shutil.copytree(idf_bundle, tmp_path_factory.mktemp("splade") / "bundle")
    manifest = json.loads((folder / "bundle.json").read_text())
    del manifest["query_idf"], manifest["files"]["idf.npz"]
    (folder / "bundle.json").write_text(json.dumps(manifest))
    (folder / "idf.npz").unlink()
    return folder


async def test_sparse_vectors_are_those_of_torch(splade_bundle: Path) -> None:
    async with embedding_server(splade_bundle) as channel:
        given = sparse_of(await embedded(channel, TEXTS, pb.REPRESENTATION_SPARSE))
    for text, (indices, weights) in zip(TEXTS, given, strict=True):
        found = np.zeros(30522, dtype=np.float32)
        found[indices] = weights
        np.testing.assert_allclose(found, splade_of(text), atol=1e-3)
        assert (np.diff(indices) > 0).all()
        assert (weights > 0).all()


async def test_sparse_documents_are_indexed_and_found(splade_bundle: Path, tmp_path: Path) -> None:
    books = [Document(document_id=str(position), text=text) for position, text in enumerate(CORPUS)]
    (tmp_path / "pipelines.yaml").write_text(
        "default:\n  description: Sparse.\n  retrieve: [{name: sparse, kind: sparse, depth: 4}]\n"
    )
    bundles = EmbeddingSettings(listen="127.0.0.1:0", bundles=[splade_bundle])
    data = RetrievalSettings(listen="127.0.0.1:0", data=tmp_path / "data")

    async def requests() -> AsyncIterator[search_pb.IndexRequest]:
        yield search_pb.IndexRequest(collection="books", create_collection=True, documents=books)

    async with (
        serving(bundles, lambda: embedding.build(bundles)) as embedder,
        serving(data, lambda: build(data)) as retrieval,
        reranking_server(OverlapReranker()) as reranking,
        orchestrator(
            listen="127.0.0.1:0",
            embedding=embedder.address,
            retrieval=retrieval.address,
            reranking=reranking,
            pipelines=tmp_path / "pipelines.yaml",
            index_fields=["sparse"],
        ) as (search, _),
    ):
        known = [item async for response in search.Index(requests()) for item in response.acknowledgements]
        assert [item.outcome for item in known] == [search_pb.Acknowledgement.OUTCOME_INDEXED] * len(books)
        answer = await search.Search(search_pb.SearchRequest(collection="books", query="airplane landing"))
    query = splade_of("airplane landing")
    expected = {str(position): float(query @ splade_of(text)) for position, text in enumerate(CORPUS)}
    scores = {result.document.document_id: result.score for result in answer.results}
    assert list(scores) == sorted(expected, key=lambda name: -expected[name])
    assert scores == pytest.approx(expected, rel=0.01)


async def test_sparse_queries_are_weighed_by_the_table_and_documents_by_the_model(idf_bundle: Path) -> None:
    tokenizer = Tokenizer(idf_bundle / "tokenizer.json", max_token_count=512)
    plane, boat = (ids[0] for ids in tokenizer.tokenize(["plane", "boat"]))
    async with embedding_server(idf_bundle) as channel:
        query = await embedded(channel, ["boat plane plane"], pb.REPRESENTATION_SPARSE, model_pb2.TEXT_ROLE_QUERY)
        document = await embedded(channel, TEXTS, pb.REPRESENTATION_SPARSE, model_pb2.TEXT_ROLE_DOCUMENT)
    (indices, weights) = sparse_of(query)[0]
    expected = {plane: np.log(5 / 3), boat: np.log(5 / 2)}  # in two and in one of four documents
    assert dict(zip(indices.tolist(), weights.tolist(), strict=True)) == pytest.approx(expected)
    assert query.usage[0].token_count == 5
    for text, (terms, _) in zip(TEXTS, sparse_of(document), strict=True):
        assert len(terms) == np.count_nonzero(splade_of(text))
    stated = open_bundle(idf_bundle).manifest.query_idf
    assert stated is not None
    assert "4 documents of corpus.jsonl" in stated.source


def test_a_checkpoints_own_table_is_taken_and_a_wrong_one_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Tokens

    from export.errors import ExportError
    from export.idf import read_idf

    tokenizer = Tokens.from_file(str(splade_checkpoint() / "tokenizer.json"))
    assert read_idf(tmp_path, tokenizer) is None
    (tmp_path / "idf.json").write_text(json.dumps({"plane": 2.5, "[CLS]": 1}))
    found = read_idf(tmp_path, tokenizer)
    assert found is not None
    assert found[0][tokenizer.token_to_id("plane")] == 2.5
    assert found[0][tokenizer.token_to_id("[CLS]")] == 0
    for wrong in ({"no such token": 1}, {"plane": -1}, ["plane"]):
        (tmp_path / "idf.json").write_text(json.dumps(wrong))
        with pytest.raises(ExportError, match="expected"):
            read_idf(tmp_path, tokenizer)


def dense_of(sparse: Sparse, vocabulary_size: int = 30522) -> NDArray[np.float32]:
    """Return the same as float32 [texts, V]."""
    rows = np.zeros((len(sparse), vocabulary_size), dtype=np.float32)
    for row, (indices, weights) in zip(rows, sparse, strict=True):
        row[indices] = weights
    return rows


@pytest.fixture(scope="module")
def router_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sparse_encoder(tmp_path_factory.mktemp("router") / "checkpoint", splade_checkpoint(), has_routes=True)


async def test_an_inference_free_checkpoint_gives_what_sentence_transformers_gives(
    router_checkpoint: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SparseEncoder

    bundle = export_tiny(router_checkpoint, tmp_path / "out")
    original = SparseEncoder(str(router_checkpoint), device="cpu")
    async with embedding_server(bundle) as channel:
        queries = await embedded(channel, TEXTS, pb.REPRESENTATION_SPARSE, model_pb2.TEXT_ROLE_QUERY)
        documents = await embedded(channel, TEXTS, pb.REPRESENTATION_SPARSE, model_pb2.TEXT_ROLE_DOCUMENT)
    expected = original.encode_query(TEXTS).to_dense().numpy()
    np.testing.assert_allclose(dense_of(sparse_of(queries)), expected, atol=1e-6)
    expected = original.encode_document(TEXTS).to_dense().numpy()
    np.testing.assert_allclose(dense_of(sparse_of(documents)), expected, atol=1e-3)
    stated = open_bundle(bundle).manifest.query_idf
    assert stated is not None
    assert stated.source == "the checkpoint's route of queries"


def test_a_router_of_other_routes_is_refused(router_checkpoint: Path, tmp_path: Path) -> None:
    from export.checkpoint.reader import read_checkpoint
    from export.errors import ExportError

    folder = shutil.copytree(router_checkpoint, tmp_path / "checkpoint")
    (folder / "query_0_SparseStaticEmbedding/model.safetensors").unlink()
    with pytest.raises(ExportError, match="expected the weights of query terms"):
        read_checkpoint(str(folder))
    path = folder / "router_config.json"
    config = json.loads(path.read_text())
    config["structure"]["query"] = config["structure"]["document"]
    path.write_text(json.dumps(config))
    with pytest.raises(ExportError, match="found queries by Transformer, SpladePooling"):
        read_checkpoint(str(folder))
    config["structure"]["query"] = ["../query"]
    config["types"]["../query"] = "sentence_transformers.models.SparseStaticEmbedding"
    path.write_text(json.dumps(config))
    with pytest.raises(ExportError, match=r"inside the checkpoint, found '\.\./query'"):
        read_checkpoint(str(folder))


def test_a_router_among_other_modules_is_refused(router_checkpoint: Path, tmp_path: Path) -> None:
    from export.checkpoint.reader import read_checkpoint
    from export.errors import ExportError

    folder = Path(shutil.copytree(router_checkpoint, tmp_path / "checkpoint"))
    path = folder / "modules.json"
    path.write_text(
        json.dumps([*json.loads(path.read_text()), {"path": "x", "type": "sentence_transformers.Normalize"}])
    )
    with pytest.raises(ExportError, match="expected a Router alone"):
        read_checkpoint(str(folder))


SPARSE: dict[str, tuple[Architecture, dict[str, Any]]] = {
    "bert-sum": (Architecture("bert", "wordpiece", model_class="BertForMaskedLM"), {"pooling": "sum"}),
    "distilbert-doc-v3": (
        Architecture("distilbert", "wordpiece", "DistilBertTokenizerFast", model_class="DistilBertForMaskedLM"),
        {"activation": "log1p_relu", "has_routes": True},
    ),
    "modernbert": (
        Architecture("modernbert", "wordpiece", sizes={"local_attention": 16}, model_class="ModernBertForMaskedLM"),
        {},
    ),
}


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # at the import of ModernBERT
@pytest.mark.parametrize("name", SPARSE)
async def test_sparse_encoders_equal_sentence_transformers(tmp_path: Path, name: str) -> None:
    from sentence_transformers import SparseEncoder

    architecture, options = SPARSE[name]
    checkpoint = write_sparse_encoder(tmp_path / "model", write_model(tmp_path / "body", architecture), **options)
    bundle = export_tiny(checkpoint, tmp_path / "out")
    original = SparseEncoder(str(checkpoint), device="cpu")
    expected = np.stack([original.encode_document(text).to_dense().numpy() for text in TEXTS])
    async with embedding_server(bundle) as channel:
        response = await embedded(channel, TEXTS, pb.REPRESENTATION_SPARSE, model_pb2.TEXT_ROLE_DOCUMENT)
    np.testing.assert_allclose(dense_of(sparse_of(response), expected.shape[1]), expected, rtol=1e-3, atol=1e-3)
    stated = open_bundle(bundle).manifest
    assert stated.representations == ("sparse",)
    assert (stated.query_idf is not None) == ("has_routes" in options)


def test_a_damaged_table_is_refused(idf_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(shutil.copytree(idf_bundle, tmp_path / "bundle"))
    tokenizer = Tokenizer(bundle.folder / "tokenizer.json", max_token_count=512)
    np.savez(bundle.folder / "idf.npz", idf=np.ones(3, dtype=np.float32))
    with pytest.raises(BundleError, match="SHA-256"):
        open_bundle(bundle.folder)
    with pytest.raises(BundleError, match=r"\[30522\], found float32 \[3\]"):
        read_query_idf(bundle, tokenizer)


def colbert_of(folder: Path, text: str, projection: NDArray[np.float32], **tokens: Any) -> NDArray[np.float32]:
    """What torch makes of a text's tokens, special ones left out: float32 [T, D]."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder, **tokens)(
        text, truncation=True, max_length=MAX_TOKEN_COUNT, return_tensors="pt"
    )
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder)(**inputs).last_hidden_state[0].numpy()
    vectors: NDArray[np.float32] = states @ projection.T
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit[1:-1]


@pytest.mark.parametrize("has_modules", [True, False])
async def test_token_vectors_are_those_of_torch(tmp_path: Path, has_modules: bool) -> None:
    from safetensors.numpy import load_file

    checkpoint = write_late_interaction(tmp_path / "colbert", has_modules=has_modules)
    bundle = export_tiny(checkpoint, tmp_path / "out", max_token_count=MAX_TOKEN_COUNT)
    manifest = open_bundle(bundle).manifest
    assert manifest.representations == ("multi_vector",)
    assert manifest.dimensions == 16
    prompts = ("[Q] ", "[D] ") if has_modules else ("[unused0] ", "[unused1] ")
    assert (manifest.query_prompt, manifest.document_prompt) == prompts

    weights = load_file(checkpoint / ("1_Dense/model.safetensors" if has_modules else "model.safetensors"))
    markers: dict[str, Any] = {} if has_modules else {"additional_special_tokens": ["[unused0]", "[unused1]"]}
    async with embedding_server(bundle) as channel:
        for role, prompt in zip((model_pb2.TEXT_ROLE_QUERY, model_pb2.TEXT_ROLE_DOCUMENT), prompts, strict=True):
            response = await embedded(channel, TEXTS, pb.REPRESENTATION_MULTI_VECTOR, role)
            tokens = np.frombuffer(response.multi_vector.tokens.data, dtype="<f4").reshape(-1, 16)
            rows = np.split(tokens, np.cumsum(response.multi_vector.token_counts)[:-1])
            for text, given in zip(TEXTS, rows, strict=True):
                expected = colbert_of(checkpoint, prompt + text, weights["linear.weight"], **markers)
                np.testing.assert_allclose(given, expected, atol=1e-4)


def test_dense_modules_of_token_states_equal_pylate(tmp_path: Path) -> None:
    """Two in a row: one with a bias, an activation and a residual connection through a matrix, one with its input."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoTokenizer

    checkpoint = write_late_interaction(tmp_path / "colbert", has_modules=True)
    torch.manual_seed(7)
    first = {
        "linear.weight": torch.randn(16, 32),
        "linear.bias": torch.randn(16),
        "residual.weight": torch.randn(16, 32),
    }
    second = {"linear.weight": torch.randn(16, 16)}
    (checkpoint / "2_Dense").mkdir()
    modules = json.loads((checkpoint / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "pylate.models.Dense.Dense"})
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    activation = "torch.nn.modules.activation.GELU"
    for number, tensors in ((1, first), (2, second)):
        config = {"bias": number == 1, "activation_function": activation, "use_residual": True}
        (checkpoint / f"{number}_Dense/config.json").write_text(json.dumps(config))
        save_file(tensors, checkpoint / f"{number}_Dense/model.safetensors")

    bundle = export_tiny(checkpoint, tmp_path / "out", max_token_count=MAX_TOKEN_COUNT)
    with torch.inference_mode():
        inputs = AutoTokenizer.from_pretrained(checkpoint)(TEXTS[0], return_tensors="pt")
        states = AutoModel.from_pretrained(checkpoint)(**inputs).last_hidden_state[0]
        hidden = torch.nn.functional.gelu(states @ first["linear.weight"].T + first["linear.bias"])
        hidden = hidden + states @ first["residual.weight"].T
        projected = torch.nn.functional.gelu(hidden @ second["linear.weight"].T) + hidden
    expected = torch.nn.functional.normalize(projected, dim=-1).numpy()
    opened = open_bundle(bundle)
    row = Input(tuple(inputs["input_ids"][0].tolist()))
    np.testing.assert_allclose(
        Session(opened, "fp32").run([row], ["multi_vector"])["multi_vector"][0], expected, atol=1e-4
    )
