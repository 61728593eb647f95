"""The command `python -m export CHECKPOINT --out FOLDER`, also available as `sluice export`."""

import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from sluice.signals import stop_on_signals

from export.checkpoint.chain import PoolingMode, Task
from export.checkpoint.description import Similarity
from export.errors import ExportError, explanation
from export.options import Options
from services.inference.bundle import VariantName

app = typer.Typer(add_completion=False)

_Poolings = Annotated[
    list[str] | None,
    typer.Option(
        metavar="|".join(get_args(PoolingMode)),
        help="How tokens become one vector; several are concatenated. (default: as stated)",
    ),
]
_Verbose = Annotated[bool, typer.Option("--verbose", help="Show warnings of libraries, and where an export fails.")]
_QueryIdf = Annotated[
    Path | None,
    typer.Option(
        help="JSON lines with `text`. Sparse queries then weigh terms by their rarity in these documents and need no "
        "model. (default: the checkpoint's idf.json, if it has one)"
    ),
]
_Adapters = Annotated[
    list[str] | None,
    typer.Option(metavar="FOLDER[:WEIGHT]", help="LoRA adapter in PEFT's format, merged into the model; may repeat."),
]


def _pooling_modes(texts: list[str]) -> tuple[PoolingMode, ...]:
    """Check the values of --pooling, because typer has no choices for options that repeat."""
    known = get_args(PoolingMode)
    if unknown := [text for text in texts if text not in known]:
        raise typer.BadParameter(f"--pooling: expected {', '.join(known)}, found {unknown[0]!r}")
    return cast(tuple[PoolingMode, ...], tuple(texts))


_YesToken = Annotated[
    str | None, typer.Option(help='Yes/no rerankers: the answer for a relevant document. (default: "yes")')
]
_NoToken = Annotated[
    str | None, typer.Option(help='Yes/no rerankers: the answer for another document. (default: "no")')
]
_Instruction = Annotated[
    str | None, typer.Option(help="Yes/no rerankers: the task in the prompt. (default: that of Qwen3-Reranker)")
]
_TemplateFile = Annotated[
    Path | None,
    typer.Option(
        help="Rerankers that are language models: file with the whole prompt, with the fields {query}, {document} "
        "and {instruction}; for lists also {count} and {identifier}. The line with {identifier} and {document} is "
        "repeated for each document. (default: the chat template with the text of Qwen3-Reranker or RankLLM)",
        exists=True,
        dir_okay=False,
    ),
]
_DefaultVariant = Annotated[
    VariantName | None,
    typer.Option(help="Graph that servers use. (default: the fastest that ranks like fp32)"),
]


@app.command(name="export")
def main(  # noqa: PLR0913, PLR0917 - each is a flag
    checkpoint: Annotated[str, typer.Argument(help="Folder of a checkpoint, or its Hugging Face Hub id.")],
    out: Annotated[Path, typer.Option(help="Output folder; the bundle is OUT/NAME/VERSION.")] = Path("bundles"),
    name: Annotated[str | None, typer.Option(help="Model name that clients use. (default: as stated)")] = None,
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1",
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag on the hub.")] = None,
    task: Annotated[Task | None, typer.Option(help="Kind of model. (default: from the architecture)")] = None,
    pooling: _Poolings = None,
    normalize: Annotated[
        bool | None,
        typer.Option("--normalize/--no-normalize", help="Scale vectors to unit length. (default: as stated)"),
    ] = None,
    similarity: Annotated[Similarity | None, typer.Option(help="How to compare vectors. (default: as stated)")] = None,
    query_prompt: Annotated[str | None, typer.Option(help="Text before queries. (default: as stated)")] = None,
    document_prompt: Annotated[str | None, typer.Option(help="Text before documents. (default: as stated)")] = None,
    max_token_count: Annotated[int | None, typer.Option(min=8, help="Longest input. (default: as stated)")] = None,
    matryoshka_dimension: Annotated[
        list[int] | None, typer.Option(min=1, help="Shorter length that vectors may be cut to; may repeat.")
    ] = None,
    relevant_label: Annotated[
        str | None, typer.Option(help="Cross-encoders: the label that means that a document answers the query.")
    ] = None,
    yes_token: _YesToken = None,
    no_token: _NoToken = None,
    instruction: _Instruction = None,
    template: _TemplateFile = None,
    multi_vector: Annotated[
        bool, typer.Option("--multi-vector", help="Also output a vector for every token, for late interaction.")
    ] = False,
    query_idf: _QueryIdf = None,
    adapter: _Adapters = None,
    int8: Annotated[bool, typer.Option("--int8/--no-int8", help="Also write an 8-bit graph.")] = True,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write a half-precision graph, for GPUs.")] = False,
    default_variant: _DefaultVariant = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load weights from a pickle if there are no safetensors.")
    ] = False,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Also build TensorRT engines for this machine's GPU.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Export again even if the bundle exists.")] = False,
    verbose: _Verbose = False,
) -> None:
    """Export a checkpoint to a bundle. Fails if the bundle's outputs differ from the original model's."""
    options = Options(
        name=name,
        version=version,
        revision=revision,
        task=task,
        pooling=_pooling_modes(pooling or []),
        normalize=normalize,
        similarity=similarity,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_token_count=max_token_count,
        matryoshka_dimensions=tuple(matryoshka_dimension or ()),
        relevant_label=relevant_label,
        multi_vector=multi_vector,
        yes_token=yes_token,
        no_token=no_token,
        instruction=instruction,
        template=template.read_text(encoding="utf-8") if template else None,
        query_idf=query_idf,
        adapters=tuple(adapter or ()),
        int8=int8,
        fp16=fp16,
        default_variant=default_variant,
        trust_pickle=trust_pickle,
    )
    _run(checkpoint, out, options, tensorrt=tensorrt, force=force, verbose=verbose)


def _run(checkpoint: str, out: Path, options: Options, *, tensorrt: bool, force: bool, verbose: bool) -> None:
    """Run the export; on failure, print the reason and exit with status 1."""
    try:
        _export(checkpoint, out, options, tensorrt=tensorrt, force=force, verbose=verbose)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        typer.echo(f"export: {explanation(error)}", err=True)
        sys.exit(1)


def _export(checkpoint: str, out: Path, options: Options, *, tensorrt: bool, force: bool, verbose: bool) -> None:
    """Run the export. Raises ExportError, and other exceptions for defects."""
    if not verbose:
        warnings.simplefilter("ignore")
    try:
        # Importing torch takes seconds; --help should not wait for it.
        from export.build import export_bundle  # noqa: PLC0415
        from export.library_output import silence  # noqa: PLC0415
        from export.tensorrt import export_engines, required_key  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ExportError(f"{error.name} is not installed: pip install 'sluice-search[export]'") from error
    if not verbose:
        silence()
    key = required_key() if tensorrt else None
    bundle = export_bundle(checkpoint, out, options, force=force)
    if key:
        export_engines(checkpoint, bundle, options, key)


if __name__ == "__main__":
    stop_on_signals()
    app()
