"""The models of one server, by name, which can be loaded and unloaded while it runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.common.v1.model_pb2 import ModelRef
from sluice.errors import InvalidRequest, NotFound, PreconditionFailed, Violation

from services.inference import metrics
from services.inference.bundle import MAX_NAME, MAX_VERSION, BundleError, is_name
from services.inference.golden_checks import GoldenChecks
from services.inference.loader import Model, load_model
from services.inference.settings import ModelServerSettings
from services.rpc.server.lifecycle import StartFailed
from services.rpc.server.memory import trim
from services.rpc.validation import quote, validating

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Served:
    """A loaded model, and the number of calls that use it."""

    model: Model
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once an unloaded model has no user."""


class Catalog:
    """Loaded models by name. Belongs to the event loop."""

    def __init__(self, settings: ModelServerSettings) -> None:
        self._settings = settings
        self._served: dict[str, _Served] = {}
        self._changing = asyncio.Lock()
        self._checks = GoldenChecks(self, every_s=settings.golden_check_s)

    @property
    def models(self) -> list[Model]:
        """All models, sorted by name."""
        return [self._served[name].model for name in sorted(self._served)]

    def problem(self) -> str:
        """Return why models cannot answer, or not correctly; empty if all can."""
        return self._checks.problem()

    async def watch(self) -> None:
        """Check the models periodically, until cancelled."""
        await self._checks.watch()

    @contextmanager
    def using(self, name: str) -> Iterator[Model]:
        """Yield the model of a name, which stays loaded in the block. An empty name stands for the only model.

        Raises NotFound for an unknown name, InvalidRequest for an empty name if there are several models.
        """
        served = self._find(name)
        served.users += 1
        try:
            yield served.model
        finally:
            served.users -= 1
            if not served.users:
                served.unused.set()

    async def add(self, folder: Path, *, expected: tuple[str, str] | None = None) -> Model:
        """Load a bundle and serve it, instead of a loaded one of the same name. Raises BundleError.

        expected  name and version that the bundle must have; None for any
        """
        model = await asyncio.to_thread(
            load_model, folder, variant=self._settings.variant, limits=self._settings.limits, expected=expected
        )
        replaced = self._served.get(model.name)
        self._served[model.name] = _Served(model)
        metrics.MODEL_INFO.labels(*_info(model)).set(1)
        if replaced:
            if _info(replaced.model) != _info(model):
                metrics.MODEL_INFO.remove(*_info(replaced.model))
            await _unload(replaced)
        return model

    async def load(self, name: str, version: str) -> Model:
        """Load NAME/VERSION from the repository. Does nothing if it is loaded already.

        Raises PreconditionFailed without a repository or if the bundle cannot be served, NotFound if there is no such
        bundle.
        """
        repository = self._settings.repository
        if repository is None:
            raise PreconditionFailed("cannot load models: this server was started without --repository")
        _check_name(name, version)
        folder = repository / name / version
        if not await asyncio.to_thread(folder.is_dir):
            message = f"no bundle {name!r} of version {version!r} in the repository"
            raise NotFound(message, reason=ErrorReason.ERROR_REASON_UNKNOWN_MODEL, metadata={"model": name})
        async with self._changing:
            present = self._served.get(name)
            if present and present.model.bundle.manifest.version == version:
                return present.model
            try:
                return await self.add(folder, expected=(name, version))
            except BundleError as error:
                logger.warning("bundle rejected", extra={"model": f"{name}@{version}", "problem": str(error)})
                raise PreconditionFailed(f"bundle {name} {version} cannot be served: {error.problem}") from error

    async def unload(self, name: str) -> None:
        """Unload a model once its calls have ended. Raises NotFound, and InvalidRequest for an empty name."""
        if not name:
            description = "expected the name of a model, got none"
            raise InvalidRequest(f"name: {description}", violations=[Violation("name", description)])
        async with self._changing:
            metrics.MODEL_INFO.remove(*_info(self._find(name).model))
            await _unload(self._served.pop(name))
        logger.info("model unloaded", extra={"model": name})

    async def close(self) -> None:
        """Stop all models."""
        for served in list(self._served.values()):
            metrics.MODEL_INFO.remove(*_info(served.model))
            await asyncio.to_thread(served.model.scheduler.close)

    def _find(self, name: str) -> _Served:
        names = ", ".join(sorted(self._served)) or "none"
        if name in self._served:
            return self._served[name]
        if name or not self._served:
            message = f"no model {quote(name)} here; loaded models: {names}"
            raise NotFound(message, reason=ErrorReason.ERROR_REASON_UNKNOWN_MODEL, metadata={"model": name[:80]})
        if len(self._served) > 1:
            description = f"expected one of {names}, got none"
            raise InvalidRequest(f"model: {description}", violations=[Violation("model", description)])
        return next(iter(self._served.values()))


def _info(model: Model) -> tuple[str, ...]:
    """Return the labels of a loaded model."""
    manifest, session = model.bundle.manifest, model.session
    return manifest.name, manifest.version, model.bundle.digest, session.variant, session.execution_provider


async def _unload(served: _Served) -> None:
    """Wait for a model's last call, stop its threads, and return its memory to the operating system."""
    if served.users:
        served.unused.clear()
        await served.unused.wait()
    await asyncio.to_thread(served.model.scheduler.close)
    served.model.session.close()
    await asyncio.to_thread(trim)


def _check_name(name: str, version: str) -> None:
    """Raise InvalidRequest unless the name and version are valid for a bundle, and so for folders of the repository."""
    with validating() as violations:
        for field_name, value, most in (("name", name, MAX_NAME), ("version", version, MAX_VERSION)):
            if not is_name(value, most):
                characters = "letters, digits, ., _ and -, the first a letter or digit"
                violations.add(field_name, f"expected 1 to {most} {characters}, got {quote(value)}")


def model_ref(model: Model) -> ModelRef:
    """Return the identity of a model, as responses carry it."""
    manifest = model.bundle.manifest
    return ModelRef(name=manifest.name, version=manifest.version, digest=model.bundle.digest)


@asynccontextmanager
async def open_catalog(settings: ModelServerSettings) -> AsyncIterator[Catalog]:
    """Load the configured bundles, yield them as a catalog, and stop all models at the end.

    Raises StartFailed if a bundle cannot be served, or if two have the same name.
    """
    catalog = Catalog(settings)
    try:
        for folder in settings.bundles:
            before = len(catalog.models)
            model = await catalog.add(folder)
            if len(catalog.models) == before:
                raise StartFailed(f"{folder}: expected bundles with different names, got {model.name!r} twice")
        watching = asyncio.create_task(catalog.watch())
        try:
            yield catalog
        finally:
            watching.cancel()
    except BundleError as error:
        raise StartFailed(str(error)) from error
    finally:
        await catalog.close()
