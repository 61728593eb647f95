"""What tests of every layer share: bundles exported once a run from real checkpoints."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.bundles import export_minilm, export_tiny
from tests.support.checkpoints import splade_checkpoint, write_bi_encoder, write_cross_encoder

# No test asserts speed: on a busy machine, any example may take long.
settings.register_profile("any speed", deadline=None)
settings.load_profile("any speed")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests in an event loop of their own."""
    if not asyncio.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="module", autouse=True)
def _module_closes_what_it_opens() -> Iterator[None]:
    """Collect garbage after each module, so that what it left open is reported at its last test and at no other."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _test_closes_what_it_opens() -> Iterator[None]:
    """Collect garbage after each test: a warning about what it left open is a failure of this test.

    Objects from before are frozen, so this takes milliseconds.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_bi_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle: 32 dimensions, mean pooling, unit length, 64 tokens, outputs dense and multi_vector."""
    folder = tmp_path_factory.mktemp("tiny-bi-encoder")
    return export_tiny(write_bi_encoder(folder / "tiny"), folder / "bundles", multi_vector=True)


@pytest.fixture(scope="session")
def tiny_cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle: a pair scorer with one logit, 128 tokens."""
    folder = tmp_path_factory.mktemp("tiny-cross-encoder")
    return export_tiny(write_cross_encoder(folder / "tiny-pairs"), folder / "bundles")


@pytest.fixture(scope="session")
def tiny_cross_encoder_3_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle: a pair scorer with logits contradiction, neutral and entailment, the last one relevant."""
    folder = tmp_path_factory.mktemp("tiny-cross-encoder-3")
    labels = ("contradiction", "neutral", "entailment")
    return export_tiny(write_cross_encoder(folder / "tiny-pairs-3", labels), folder / "bundles")


@pytest.fixture(scope="session")
def tiny_sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle: a real SPLADE on BERT-tiny, output sparse."""
    return export_tiny(splade_checkpoint(), tmp_path_factory.mktemp("tiny-sparse"), name="splade-tiny")


@pytest.fixture(scope="session")
def minilm_bundle() -> Path:
    """Folder of all-MiniLM-L6-v2's bundle, in the place where the demo keeps it; exported when it is not there."""
    return export_minilm()
