"""`export/MODELS.md` shows what `export/models.json` says, and that is what the tests demand."""

from tests.support.model_table import PAGE, page, read_figures
from tests.support.tiny_decoders import DECODERS
from tests.support.tiny_models import ENCODERS, OTHERS


def test_page_shows_the_figures() -> None:
    text = PAGE.read_text()
    assert page(text, read_figures()) == text, "run python -m tests.support.model_table NAME for what changed"


def test_each_model_on_the_page_keeps_parity_and_does_not_depend_on_the_batch() -> None:
    figures = read_figures()
    for row in (*figures["tiny"], *figures["real"]):
        fp32 = row["variants"]["fp32"]
        assert fp32["difference"] <= (1e-3 if row["task"] == "cross-encoder" else 1e-4), row["name"]
        assert fp32["batch_dependence"] <= 1e-4, row["name"]


def test_each_architecture_of_the_tests_is_on_the_page() -> None:
    figures = read_figures()
    shown = {row["name"] for name in ("tiny", "refused") for row in figures[name]}
    missing = {*map(str, (*ENCODERS, *OTHERS)), *DECODERS} - shown
    assert not missing, "run python -m tests.support.model_table " + " ".join(sorted(missing))
