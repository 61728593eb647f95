"""The models of one server, by name."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.common.v1.model_pb2 import ModelRef
from sluice.errors import InvalidRequest, NotFound, Violation

from services.model.bundle import BundleError
from services.model.loading import Model, load_model
from services.model.settings import ModelServerSettings
from services.rpc.server import StartFailed


class Catalog:
    """Loaded models by name. Iterates in the order of names."""

    def __init__(self, models: list[Model]) -> None:
        self.models = sorted(models, key=lambda model: model.name)

    def get(self, name: str) -> Model:
        """The model of a name; the empty name means the only one.

        Raises NotFound for an unknown name, InvalidRequest for an empty one when there are several.
        """
        names = [model.name for model in self.models]
        if name in names:
            return self.models[names.index(name)]
        if name:
            message = f"no model {name!r} here; there is {', '.join(names)}"
            raise NotFound(message, reason=ErrorReason.ERROR_REASON_UNKNOWN_MODEL, metadata={"model": name})
        if len(self.models) > 1:
            description = f"expected one of {', '.join(names)}, got none"
            raise InvalidRequest(f"model: {description}", violations=[Violation("model", description)])
        return self.models[0]


def model_ref(model: Model) -> ModelRef:
    """The identity of a model, as it is sent."""
    manifest = model.bundle.manifest
    return ModelRef(name=manifest.name, version=manifest.version, digest=model.bundle.digest)


@asynccontextmanager
async def open_catalog(settings: ModelServerSettings) -> AsyncIterator[Catalog]:
    """Load the configured bundles, and let their threads end with the block.

    Raises StartFailed when a bundle cannot be served, or two have one name.
    """
    try:
        models = [await asyncio.to_thread(_load, settings, index) for index in range(len(settings.bundles))]
    except BundleError as error:
        raise StartFailed(str(error)) from error
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise StartFailed(f"expected bundles with different names, got {', '.join(names)}")
    try:
        yield Catalog(models)
    finally:
        for model in models:
            model.engine.close()


def _load(settings: ModelServerSettings, index: int) -> Model:
    return load_model(settings.bundles[index], variant=settings.variant, limits=settings.limits)
