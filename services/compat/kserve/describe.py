"""Descriptions of models in the protocol: metadata, configuration, and the index of the repository."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import NotFound
from sluice.kserve.v2 import inference_service_pb2 as pb
from sluice.kserve.v2 import model_config_pb2 as config_pb

from services.compat.kserve.infer_call import Signature
from services.compat.kserve.tensors import BYTES, Spec, shape_of
from services.inference.bundle import MANIFEST, MAX_NAME, MAX_VERSION, is_name
from services.inference.loader import Model
from services.rpc.validation import quote

_PLATFORM: Final = "onnxruntime_onnx"
_BACKEND: Final = "onnxruntime"
_MOST_LISTED: Final = 4096


def metadata_of(model: Model, signature: Signature) -> pb.ModelMetadataResponse:
    """Return the tensors of a model."""

    def describe(specs: Sequence[Spec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
        return [
            pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=shape_of(spec))
            for spec in specs
        ]

    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[model.bundle.manifest.version],
        platform=_PLATFORM,
        inputs=describe(signature.inputs),
        outputs=describe(signature.outputs),
    )


def config_of(model: Model, signature: Signature, most_rows: int) -> config_pb.ModelConfig:
    """Return the configuration of a model."""
    manifest, session = model.bundle.manifest, model.session
    facts = {
        "digest": model.bundle.digest,
        "execution_provider": session.execution_provider,
        "max_token_count": str(manifest.max_token_count),
        "variant": session.variant,
        "version": manifest.version,
    }
    return config_pb.ModelConfig(
        name=model.name,
        platform=_PLATFORM,
        backend=_BACKEND,
        max_batch_size=most_rows,
        input=[
            config_pb.ModelInput(
                name=spec.name, data_type=_type(spec.datatype), dims=spec.dims, optional=spec.is_optional
            )
            for spec in signature.inputs
        ],
        output=[
            config_pb.ModelOutput(name=spec.name, data_type=_type(spec.datatype), dims=spec.dims)
            for spec in signature.outputs
        ],
        dynamic_batching=config_pb.ModelDynamicBatching(priority_levels=2, default_priority_level=1),
        parameters={key: config_pb.ModelParameter(string_value=value) for key, value in facts.items()},
        model_transaction_policy=config_pb.ModelTransactionPolicy(decoupled=False),
    )


def index_of(models: Sequence[Model], repository: Path | None, *, only_ready: bool) -> pb.RepositoryIndexResponse:
    """Return the loaded models, and the bundles of the repository that are not loaded. Reads folders."""
    entry = pb.RepositoryIndexResponse.ModelIndex
    ready = {(model.name, model.bundle.manifest.version) for model in models}
    entries = [entry(name=name, version=version, state="READY") for name, version in ready]
    if repository is not None and not only_ready:
        entries += [
            entry(name=name, version=version, state="UNAVAILABLE", reason="unloaded")
            for name, version in _bundles(repository)
            if (name, version) not in ready
        ]
    return pb.RepositoryIndexResponse(models=sorted(entries, key=lambda one: (one.name, one.version)))


def last_version(repository: Path | None, name: str) -> str:
    """Return the last version of a bundle in the repository, comparing numbers by value. Raises NotFound.

    Reads folders.
    """
    versions = [version for found, version in _bundles(repository) if found == name] if repository else []
    if not versions and repository:
        message = f"no bundle {quote(name)} in the repository"
        raise NotFound(message, reason=ErrorReason.ERROR_REASON_UNKNOWN_MODEL, metadata={"model": name[:80]})
    return max(versions, key=_natural, default="")


def _bundles(repository: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and version of each bundle in a repository."""
    found = ((path.parts[-3], path.parts[-2]) for path in sorted(repository.glob(f"*/*/{MANIFEST}")))
    named = ((name, version) for name, version in found if is_name(name, MAX_NAME) and is_name(version, MAX_VERSION))
    yield from islice(named, _MOST_LISTED)


def _natural(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", version)]


def _type(datatype: str) -> config_pb.DataType.ValueType:
    return config_pb.TYPE_STRING if datatype == BYTES else config_pb.DataType.Value(f"TYPE_{datatype}")
