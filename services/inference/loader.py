"""Loading of a bundle: hashes, tokenizer, graph, golden check and speed.

A server that cannot reproduce the golden outputs on its own hardware refuses to serve the bundle. The golden check is
also the warm-up.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from services.inference import metrics
from services.inference.bundle import GOLDEN, TOKENIZER, Bundle, BundleError, VariantName, open_bundle
from services.inference.cache import Cache
from services.inference.cost import Cost
from services.inference.prompt import PromptRows
from services.inference.scheduler import BatchScheduler, Limits, Schedule
from services.inference.session import Session
from services.inference.tokenizer import Ids, Input, Tokenizer
from services.rpc.server.offloading import offload

logger = logging.getLogger(__name__)

# Tokens of the rows whose runs measure the speed, from a query to a page. Longer rows follow from these, because the
# cost is quadratic.
_SPEED_TOKENS: Final = (4, 32, 128, 512)
# Runs of each; the fastest counts. Long runs vary less and are not repeated, and a slow model starts sooner.
_SPEED_RUNS: Final = 3
_LONG_RUN_S: Final = 0.5

# Fact: tokenizing 1,000 characters takes about 0.1 ms, as long as a switch to a thread and back.
INLINE_CHARACTERS: Final = 1000

# Bytes of the objects around a cached text and its ids.
_KEPT_BYTES: Final = 300

_Seen = Cache[str, Ids]


@dataclass(frozen=True)
class Model:
    """A loaded and checked bundle."""

    bundle: Bundle
    tokenizer: Tokenizer
    session: Session
    scheduler: BatchScheduler
    prompt: PromptRows | None = None
    """Makes the rows of a reranker that is a language model."""
    query_idf: NDArray[np.float32] | None = None
    """Term weights of sparse queries, float32 [V]; None: the model computes them."""
    seen: _Seen = field(default_factory=lambda: Cache(max_entries=0, max_bytes=0))
    """Token ids of recent texts of the interactive lane."""

    @property
    def name(self) -> str:
        """Name of the model in requests."""
        return self.bundle.manifest.name

    async def tokenize(self, texts: Sequence[str], schedule: Schedule) -> list[Ids]:
        """Return the token ids of each text, without special tokens. Long texts are tokenized off the event loop.

        Raises Unavailable (OVERLOADED) immediately if there are new texts and the model's queue alone is too long: no
        cache can have their outputs, and rejecting them before they are tokenized costs a third less.
        """
        started = perf_counter()
        known = [self.seen.get(text) for text in texts]
        absent = [text for text, ids in zip(texts, known, strict=True) if ids is None]
        if absent:
            self.scheduler.admit(schedule)
            fresh = iter(await self._tokenize_new(absent))
            result = [next(fresh) if ids is None else ids for ids in known]
            if schedule.lane == "interactive":  # queries repeat; a corpus would only evict them
                self._keep(texts, result)
        else:
            result = [ids for ids in known if ids is not None]
        seconds = perf_counter() - started
        metrics.TOKENIZE.labels(self.name).observe(seconds)
        schedule.times.tokenize_s += seconds
        return result

    async def _tokenize_new(self, texts: Sequence[str]) -> list[Ids]:
        size = sum(map(len, texts))
        return await offload(lambda: self.tokenizer.tokenize(texts), size=size, inline=INLINE_CHARACTERS)

    def _keep(self, texts: Sequence[str], token_ids: Sequence[Ids]) -> None:
        for text, ids in zip(texts, token_ids, strict=True):
            self.seen.put(text, ids, len(text) + ids.itemsize * len(ids) + _KEPT_BYTES)


def load_model(
    folder: Path, *, variant: VariantName | Literal["auto"], limits: Limits, expected: tuple[str, str] | None = None
) -> Model:
    """Load, check and warm up a bundle. `auto` selects the variant that the export found fastest.

        expected  name and version that the bundle must have; None for any

    Raises BundleError if a file is missing or damaged, or if the golden outputs are not reproduced.
    """
    bundle = open_bundle(folder, expected=expected)
    try:
        return _load(bundle, variant, limits)
    except BundleError:
        raise
    except Exception as error:  # of any library that reads a file with a correct hash and unusable contents
        message = "its files match the manifest but cannot be loaded; see the server's log"
        raise BundleError(folder, message, f"{type(error).__name__}: {error}") from error


def _load(bundle: Bundle, variant: VariantName | Literal["auto"], limits: Limits) -> Model:
    """Return a bundle as a loaded, checked and warm model."""
    started = perf_counter()
    manifest = bundle.manifest
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, max_token_count=manifest.max_token_count)
    session = Session(bundle, manifest.default_variant if variant == "auto" else variant, threads=limits.threads)
    prompt = None
    if manifest.prompt:
        prompt = PromptRows(manifest.prompt, tokenizer, max_token_count=manifest.max_token_count)
    distance = check_golden(bundle, tokenizer, session, prompt)
    query_idf = read_query_idf(bundle, tokenizer)
    cost = measure_cost(session, longest=manifest.max_token_count)
    fields = {
        "model": f"{manifest.name}@{manifest.version}",
        "digest": bundle.digest,
        "variant": session.variant,
        "execution_provider": session.execution_provider,
        "golden_distance": float(f"{distance:.3g}"),
        "tokens_per_second": round(1 / cost.seconds_per_token),
        "overhead_tokens": round(cost.overhead_tokens, 1),
        "quadratic": float(f"{cost.quadratic:.3g}"),
        "duration_s": round(perf_counter() - started, 2),
    }
    logger.info("model loaded", extra=fields)
    if most := session.graph.max_batch_rows:
        limits = replace(limits, max_batch_rows=min(limits.max_batch_rows, most))
    scheduler = BatchScheduler(session, cost, limits, model=manifest.name)
    seen: _Seen = Cache(max_entries=limits.cache_entries, max_bytes=limits.token_cache_bytes)
    return Model(bundle, tokenizer, session, scheduler, prompt, query_idf, seen)


def read_query_idf(bundle: Bundle, tokenizer: Tokenizer) -> NDArray[np.float32] | None:
    """Return a bundle's term weights of queries, float32 [V]; None if it has none.

    Raises BundleError if they are malformed.
    """
    stated = bundle.manifest.query_idf
    if stated is None:
        return None
    path = bundle.folder / stated.file
    try:
        with np.load(path, allow_pickle=False) as file:
            table: NDArray[np.float32] = file["idf"]
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(path.parent, f"{path.name}: expected an array named idf", error) from error
    expected = (tokenizer.vocabulary_size,)
    if table.dtype != np.float32 or table.shape != expected or not (np.isfinite(table) & (table >= 0)).all():
        wanted, found = f"weights >= 0, float32 {list(expected)}", f"{table.dtype} {list(table.shape)}"
        raise BundleError(path.parent, f"{path.name}: expected {wanted}, found {found}")
    return table


def check_golden(bundle: Bundle, tokenizer: Tokenizer, session: Session, prompt: PromptRows | None = None) -> float:
    """Return the largest distance from the golden outputs. Raises BundleError if it exceeds the variant's tolerance.

    Distance: 1 - cosine for vectors, absolute difference for logits. Rows run one by one, so that padding and other
    rows have no influence.
    """
    tolerance = session.graph.tolerance
    with np.load(bundle.folder / GOLDEN, allow_pickle=False) as file:
        golden = {name: file[name] for name in file.files}
    try:
        distance = _golden_distance(bundle, tokenizer, session, prompt, golden)
    except KeyError as error:
        message = f"{GOLDEN}: expected an array named {error}, found {sorted(golden)}"
        raise BundleError(bundle.folder, message) from error
    if not distance <= tolerance:
        raise BundleError(
            bundle.folder,
            f"{session.variant} on {session.execution_provider} is {distance:.3g} away from the golden outputs, "
            f"expected at most {tolerance:.3g}: wrong graph, tokenizer or runtime; the bundle is not served",
        )
    return distance


def _golden_distance(
    bundle: Bundle, tokenizer: Tokenizer, session: Session, prompt: PromptRows | None, golden: dict[str, NDArray[Any]]
) -> float:
    if bundle.manifest.task != "bi_encoder":
        rows = _golden_prompts(tokenizer, prompt, golden) if prompt else _golden_pairs(tokenizer, golden)
        logits = [session.run([row], ["logits"])["logits"][0] for row in rows]
        if "counts" in golden:
            logits = [np.concatenate([row[:count] for row, count in zip(logits, golden["counts"], strict=True)])]
        return float(np.abs(np.concatenate(logits) - golden["logits"].ravel()).max())
    rows = [tokenizer.single(ids, "end") for ids in tokenizer.tokenize(golden["texts"].tolist())]
    outputs = [session.run([row], bundle.manifest.representations) for row in rows]
    distances = []
    for name in bundle.manifest.representations:
        expected = golden[name]
        given = [output[name][0] for output in outputs]
        distances.append(_largest_angle(np.concatenate([np.atleast_2d(part) for part in given]), expected))
    return max(distances)


def _golden_pairs(tokenizer: Tokenizer, golden: dict[str, NDArray[Any]]) -> list[Input]:
    queries, documents = (tokenizer.tokenize(golden[name].tolist()) for name in ("queries", "documents"))
    return [tokenizer.pair(query, document, "end") for query, document in zip(queries, documents, strict=True)]


def _golden_prompts(tokenizer: Tokenizer, prompt: PromptRows, golden: dict[str, NDArray[Any]]) -> list[Input]:
    queries, documents = golden["queries"].tolist(), iter(golden["documents"].tolist())
    rows = []
    for query, count in zip(queries, golden.get("counts", np.ones(len(queries), int)).tolist(), strict=True):
        ids = tokenizer.tokenize(prompt.texts(query, [next(documents) for _ in range(count)]))
        rows.append(prompt.row(*prompt.split(ids), "end").row)
    return rows


def _largest_angle(given: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return 1 - the lowest cosine between corresponding rows [N, D]; two rows of zeros are equal."""
    if given.shape != expected.shape:
        return float("inf")
    norms = np.linalg.norm(given, axis=1) * np.linalg.norm(expected, axis=1)
    is_absent = ~given.any(axis=1) & ~expected.any(axis=1)
    return float(1 - np.where(is_absent, 1, (given * expected).sum(axis=1) / np.maximum(norms, 1e-12)).min())


def measure_cost(session: Session, *, longest: int) -> Cost:
    """Return the cost of runs on this machine, from a few runs of rows of different lengths, at most `longest`."""
    runs = []
    for tokens in sorted({min(tokens, longest) for tokens in _SPEED_TOKENS}):
        runs.append((tokens, _best_run_s(session, tokens)))
        if len(runs) > 1 and runs[-1][1] > _LONG_RUN_S:
            break
    return Cost.fit(*runs)


def _best_run_s(session: Session, tokens: int) -> float:
    row = Input((1,) * tokens)
    times: list[float] = []
    while len(times) < _SPEED_RUNS and sum(times) < _LONG_RUN_S:
        started = perf_counter()
        session.run([row], session.outputs)
        times.append(perf_counter() - started)
    return min(times)
