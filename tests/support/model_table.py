"""The tables of export/MODELS.md: models of each architecture are exported, and what was measured is written down.

`python -m tests.support.model_table` exports all of them, or those whose names are given, writes `export/models.json`,
and puts its tables between the markers of `export/MODELS.md`. With `--speeds FILE`, it takes speeds from a result of
`python -m loadtest bench frameworks`.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from export.checkpoint.chain import Dense, Normalize, Pooling, SpladePooling
from services.inference.bundle import Bundle, Parity
from tests.support.checkpoints import (
    DenseSpec,
    splade_checkpoint,
    write_bi_encoder,
    write_late_interaction,
    write_model2vec,
    write_sparse_encoder,
    write_static,
)
from tests.support.real_models import (
    PACKAGES,
    multilingual_e5_checkpoint,
    paraphrase_minilm_checkpoint,
    smollm2_checkpoint,
)
from tests.support.tiny_decoders import DECODERS, write_decoder
from tests.support.tiny_models import ENCODERS, OTHERS, Architecture, write_model
from tests.support.tiny_rerankers import write_classifier, write_language_model

FIGURES: Final = Path(__file__).parents[2] / "export" / "models.json"
PAGE: Final = FIGURES.with_name("MODELS.md")
_START, _END = "<!-- {} -->", "<!-- end of {} -->"
_REAL: Final = "real"
# Encoders that published rerankers have.
_CROSS_ENCODERS: Final = (
    *("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet"),
    *("deberta-v2", "albert", "electra", "modernbert"),
)

Figures = dict[str, list[dict[str, Any]]]
"""Rows of each table: `tiny`, `real`, `refused`."""


@dataclass(frozen=True)
class Model:
    """A checkpoint to export."""

    table: str
    name: str
    write: Callable[[Path], Path]
    """Writes the checkpoint into a folder unless it exists elsewhere, and returns its folder."""
    options: Mapping[str, Any] = field(default_factory=dict)


def models() -> list[Model]:
    """Return all models of the tables."""
    encoders = [Model("tiny", str(one), _encoder(one)) for one in ENCODERS]
    rerankers = [Model("tiny", f"{one} reranker", _reranker(one)) for one in ENCODERS if str(one) in _CROSS_ENCODERS]
    decoders = [Model("tiny", name, _decoder(name)) for name in DECODERS]
    others = [Model("tiny", str(one), _encoder(one)) for one in OTHERS]
    return [*encoders, *decoders, *others, *_chains(), *rerankers, *_language_models(), *_real_models()]


def _language_models() -> list[Model]:
    """Return rerankers on decoders: with a classification head, and asked for a word or for the best of a list."""
    length = {"max_token_count": 256}
    return [
        *(
            Model("tiny", f"{name} reranker", _classifier(name), length)
            for name in ("llama", "qwen2", "qwen3", "gemma2")
        ),
        Model("tiny", "qwen3 yes/no", write_language_model, length | {"task": "yes-no-reranker"}),
        Model("tiny", "qwen3 listwise", write_language_model, {"max_token_count": 1024, "task": "listwise-reranker"}),
    ]


def _classifier(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_classifier(folder, name)


def _chains() -> list[Model]:
    """Return models of other modules than a mean after a transformer."""
    tanh, linear = DenseSpec(32, "Tanh"), DenseSpec(48, has_bias=False)
    writers: dict[str, Callable[[Path], Path]] = {
        "LaBSE's modules": lambda folder: write_bi_encoder(folder, "cls", dense=[tanh]),
        "GTR's modules": lambda folder: write_bi_encoder(folder, dense=[linear]),
        "EmbeddingGemma's modules": lambda folder: write_bi_encoder(folder, dense=[linear, linear]),
        "two poolings": lambda folder: write_bi_encoder(folder, ("cls", "mean")),
        "weighted mean": lambda folder: write_bi_encoder(folder, "weightedmean"),
        "StaticEmbedding": write_static,
        "model2vec": write_model2vec,
        "ColBERT": lambda folder: write_late_interaction(folder, has_modules=False),
        "PyLate": lambda folder: write_late_interaction(folder, has_modules=True),
        "SPLADE": lambda folder: write_sparse_encoder(folder, _masked(folder)),
        "doc-v3 (Router)": lambda folder: write_sparse_encoder(
            folder, _masked(folder), activation="log1p_relu", has_routes=True
        ),
    }
    return [Model("tiny", name, write) for name, write in writers.items()]


def _masked(folder: Path) -> Path:
    """Write a masked language model beside a folder."""
    body = folder.with_name(f"{folder.name}-body")
    return write_model(body, Architecture("distilbert", "wordpiece", model_class="DistilBertForMaskedLM"))


def _encoder(architecture: Architecture) -> Callable[[Path], Path]:
    return lambda folder: write_model(folder, architecture)


def _reranker(architecture: Architecture) -> Callable[[Path], Path]:
    return lambda folder: write_model(folder, architecture, "cross-encoder")


def _decoder(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_decoder(folder, name)


def _real_models() -> list[Model]:
    from export.demo import demo_checkpoint

    return [
        Model(_REAL, "all-MiniLM-L6-v2", lambda _: demo_checkpoint()),
        Model(_REAL, "paraphrase-MiniLM-L3-v2", lambda _: paraphrase_minilm_checkpoint()),
        Model(_REAL, "multilingual-e5-small", lambda _: multilingual_e5_checkpoint()),
        Model(_REAL, "SPLADE on BERT-tiny", lambda _: splade_checkpoint()),
        Model(
            _REAL,
            "SmolLM2-135M-Instruct",
            lambda _: smollm2_checkpoint(),
            {"task": "bi-encoder", "pooling": "last-token", "max_token_count": 256},
        ),
    ]


def _folder(model: Model) -> Path:
    """Return the folder of a real model's bundle, which is kept to measure its speed."""
    return PACKAGES / "bundles" / model.name.replace(" ", "-")


def measure(model: Model, folder: Path, out: Path) -> dict[str, Any]:
    """Export a model, and return its row. For one that is refused, the row has the reason."""
    from export.build import export_bundle
    from export.checkpoint.reader import read_checkpoint
    from export.errors import ExportError
    from export.options import Options, overridden

    checkpoint = model.write(folder / model.name.replace(" ", "-"))
    options = Options(name="model", fp16=model.table != _REAL, **model.options)
    try:
        stated = overridden(read_checkpoint(str(checkpoint)), options)
        bundle = export_bundle(str(checkpoint), out, options, say=_say, force=True)
    except ExportError as error:
        reason = str(error).replace(str(checkpoint), model.name).removeprefix(f"{model.name}: ")
        return {"name": model.name, "reason": reason}
    return {
        "name": model.name,
        "architecture": stated.architecture,
        "task": stated.task,
        "pooling": ", ".join(map(_module_name, stated.chain)),
        "variants": _variants(bundle),
    }


def _say(line: str) -> None:
    if line.startswith("skipped"):
        typer.echo(line)


def _module_name(module: object) -> str:
    """Return what the page calls a module after the body of a model."""
    if isinstance(module, Pooling):
        return " + ".join(module.modes)
    return {Dense: "Dense", Normalize: "unit length", SpladePooling: "SPLADE"}[type(module)]


def _variants(bundle: Bundle) -> dict[str, dict[str, float]]:
    return {
        name: {
            "difference": _difference(variant.parity),
            "batch_dependence": 1 - variant.parity.batch_invariance,
            "rank_agreement": variant.parity.rank_agreement,
        }
        for name, variant in bundle.manifest.variants.items()
    }


def _difference(parity: Parity) -> float:
    if parity.min_cosine is not None:
        return 1 - parity.min_cosine
    assert parity.max_score_difference is not None
    return parity.max_score_difference


def tables(figures: Figures) -> dict[str, list[str]]:
    """Return the lines of each table of the page."""
    tiny = ["| model | class | task | pooling | fp32: difference | int8: agreement | fp16: agreement |"]
    real = ["| model | class | task | pooling | fp32: difference | int8: agreement | fp32: speed | int8: speed |"]
    refused = ["| model | reason |", "|---|---|"]
    for table in (tiny, real):
        table.append("|---" * (table[0].count("|") - 1) + "|")
    tiny += [_row([*_start(row), _agreement(row, "int8"), _agreement(row, "fp16")]) for row in figures["tiny"]]
    real += [
        _row([*_start(row), _agreement(row, "int8"), _speed(row, "fp32"), _speed(row, "int8")])
        for row in figures[_REAL]
    ]
    refused += [_row([row["name"], row["reason"].replace("|", "\\|")]) for row in figures["refused"]]
    return {"tiny": tiny, _REAL: real, "refused": refused}


def _start(row: Mapping[str, Any]) -> list[str]:
    fp32 = row["variants"]["fp32"]
    return [row["name"], row["architecture"], row["task"], row["pooling"], f"{fp32['difference']:.0e}"]


def _agreement(row: Mapping[str, Any], variant: str) -> str:
    found = row["variants"].get(variant)
    return f"{found['rank_agreement']:.3f}" if found else ""


def _speed(row: Mapping[str, Any], variant: str) -> str:
    found = row.get("speeds", {}).get(variant)
    return f"{found:.2f}" if found else ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("  ", " ")


def page(text: str, figures: Figures) -> str:
    """Return the text of the page with the tables of the figures."""
    for name, lines in tables(figures).items():
        before, _, rest = text.partition(_START.format(name))
        _, _, after = rest.partition(_END.format(name))
        table = "\n".join(lines)
        text = f"{before}{_START.format(name)}\n\n{table}\n\n{_END.format(name)}{after}"
    return text


def read_figures() -> Figures:
    """Return the figures of the page."""
    empty: Figures = {"tiny": [], _REAL: [], "refused": []}
    return empty | (json.loads(FIGURES.read_text()) if FIGURES.exists() else {})


def write_figures(figures: Figures) -> None:
    """Write the figures and the page."""
    order = [model.name for model in models()]
    for rows in figures.values():
        rows.sort(key=lambda row: order.index(row["name"]) if row["name"] in order else len(order))
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), figures))


def _with_row(figures: Figures, table: str, row: dict[str, Any]) -> Figures:
    """Return the figures with a new row instead of those of the same name, whose speeds it keeps."""
    old = next((one for one in figures[_REAL] if one["name"] == row["name"]), {})
    kept = {name: [one for one in rows if one["name"] != row["name"]] for name, rows in figures.items()}
    new = row | ({"speeds": old["speeds"]} if "speeds" in old else {})
    target = "refused" if "reason" in row else table
    return kept | {target: [*kept[target], new]}


def _rows_of(figures: Figures, models: list[Model]) -> list[tuple[dict[str, Any], Model]]:
    """Return the rows of the real models, with the models."""
    named = {model.name: model for model in models}
    return [(row, named[row["name"]]) for row in figures[_REAL] if row["name"] in named]


def _speeds(model: Model, data: Path) -> dict[str, float]:
    """Return the speed of each graph ÷ that of the framework."""
    from export.checkpoint.reader import read_checkpoint
    from export.options import Options, overridden
    from loadtest.bench.frameworks import compare, ratios_of
    from loadtest.bench.setup import Setup

    stated = overridden(read_checkpoint(str(model.write(PACKAGES))), Options(**model.options))
    return ratios_of(compare(stated, Setup("frameworks", _folder(model) / "model" / "1", data, rounds_wanted=5)))


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Models to export. (default: all)")] = None,
    speeds: Annotated[Path | None, typer.Option(help="Collection in BEIR layout; measure speeds on its texts.")] = None,
) -> None:
    """Export models, and write what was measured. With --speeds, measure the speeds of the real models instead."""
    figures = read_figures()
    wanted = [model for model in models() if not names or model.name in names]
    if speeds:
        for row, model in _rows_of(figures, wanted):
            row["speeds"] = _speeds(model, speeds)
            write_figures(figures)
        return
    for model in wanted:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(model, Path(folder), _folder(model) if model.table == _REAL else Path(folder) / "out")
        typer.echo(f"{model.name}: {row.get('reason') or row['variants']}")
        figures = _with_row(figures, model.table, row)
        write_figures(figures)


if __name__ == "__main__":
    typer.run(main)
