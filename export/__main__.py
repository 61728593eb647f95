"""`python -m export CHECKPOINT --out FOLDER`, which is `sluice export`: a bundle from a checkpoint."""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from sluice.signals import stop_on_signals

from export.checkpoint import ExportError, Pooling, Similarity, Task
from export.options import Options
from services.inference.bundle import VariantName

app = typer.Typer(add_completion=False)


@app.command(name="export")
def main(  # noqa: PLR0913, PLR0917 - each is a flag
    checkpoint: Annotated[str, typer.Argument(help="Folder of a checkpoint, or its id on the hub.")],
    out: Annotated[Path, typer.Option(help="Folder of bundles; the bundle is OUT/NAME/VERSION.")] = Path("bundles"),
    name: Annotated[str | None, typer.Option(help="Name that clients ask for. (default: the checkpoint's)")] = None,
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1",
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag on the hub.")] = None,
    task: Annotated[Task | None, typer.Option(help="(default: as the architecture says)")] = None,
    pooling: Annotated[Pooling | None, typer.Option(help="(default: as the checkpoint says)")] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Vectors of unit length. (default: as it says)")
    ] = None,
    similarity: Annotated[Similarity | None, typer.Option(help="(default: as the checkpoint says)")] = None,
    query_prompt: Annotated[str | None, typer.Option(help="Prepended to queries. (default: as it says)")] = None,
    document_prompt: Annotated[str | None, typer.Option(help="Prepended to documents. (default: as it says)")] = None,
    max_token_count: Annotated[int | None, typer.Option(min=8, help="Longest input. (default: as it says)")] = None,
    matryoshka_dimension: Annotated[
        list[int] | None, typer.Option(min=1, help="A prefix that vectors were trained to be cut to; may repeat.")
    ] = None,
    relevant_label: Annotated[
        str | None, typer.Option(help="Cross-encoders: the label that says a document answers the query.")
    ] = None,
    multi_vector: Annotated[
        bool, typer.Option("--multi-vector", help="Also give the state of every token, for late interaction.")
    ] = False,
    query_idf: Annotated[
        Path | None,
        typer.Option(
            help="Lines of JSON with `text`: sparse queries weigh terms by how few of these documents have them, and "
            "need no model. (default: the checkpoint's idf.json, if it has one)"
        ),
    ] = None,
    int8: Annotated[bool, typer.Option("--int8/--no-int8", help="Also write an 8-bit graph.")] = True,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write a half precision graph, for GPUs.")] = False,
    default_variant: Annotated[
        VariantName | None,
        typer.Option(help="The graph servers take. (default: the fastest that ranks as fp32 does)"),
    ] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load weights from a pickle when there are no safetensors.")
    ] = False,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Also build TensorRT engines for this machine's GPU; needs one.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Export again what is there already.")] = False,
) -> None:
    """Export a checkpoint to a bundle that the servers run; refuse when it does not give what the original gives."""
    options = Options(
        name=name,
        version=version,
        revision=revision,
        task=task,
        pooling=pooling,
        normalize=normalize,
        similarity=similarity,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_token_count=max_token_count,
        matryoshka_dimensions=tuple(matryoshka_dimension or ()),
        relevant_label=relevant_label,
        multi_vector=multi_vector,
        query_idf=query_idf,
        int8=int8,
        fp16=fp16,
        default_variant=default_variant,
        trust_pickle=trust_pickle,
    )
    _run(checkpoint, out, options, tensorrt=tensorrt, force=force)


def _run(checkpoint: str, out: Path, options: Options, *, tensorrt: bool, force: bool) -> None:
    """Export, and exit with status 1 and the reason when that fails."""
    warnings.simplefilter("ignore")  # of libraries, to people who cannot act on them
    # torch takes seconds to import, and --help should not.
    from export.build import export_bundle  # noqa: PLC0415
    from export.tensorrt import export_engines, required_key  # noqa: PLC0415

    try:
        key = required_key() if tensorrt else None
        bundle = export_bundle(checkpoint, out, options, force=force)
        if key:
            export_engines(checkpoint, bundle, options, key)
    except ExportError as error:
        typer.echo(f"export: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    stop_on_signals()
    app()
