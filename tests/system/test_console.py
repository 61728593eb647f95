"""The console in a real browser."""

import json
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright
from sluice.client import Document, SearchClient
from sluice.common.v1.document_pb2 import Document as DocumentMessage
from sluice.errors import Unauthenticated
from sluice.retrieval.v1.retrieval_service_pb2 import Collection, DenseField, ListCollectionsResponse, Schema
from sluice.search.v1.search_service_pb2 import Result, SearchResponse, StageReport

from tests.support.background import in_background
from tests.support.fake_services import ExactRetrieval, retrieval_server
from tests.support.gateway import gateway, gateway_of
from tests.support.require import require
from tests.support.scripted_search import ScriptedSearch
from tests.support.system import System, running_system
from tests.support.waiting import until

pytestmark = pytest.mark.slow

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 300_000
expect.set_options(timeout=WAIT_MS)
VIEWS = ("search", "compare", "collections", "services", "index")
SCRIPT = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'><b>bold</b>"
WORDS = ("water", "ore", "channel", "gold", "queue", "stone", "river", "sand", "wood", "sieve")


def books() -> Iterator[Document]:
    for number in range(40):
        text = " ".join(WORDS[(number * step + step) % len(WORDS)] for step in (1, 3, 7))
        yield Document(f"d{number:02}", f"The {text}.\n\nA line of its own.", f"Book {number}", {"shelf": number % 4})
    yield Document("evil", f"script {SCRIPT}", f"evil script {SCRIPT}", {"shelf": 9, "note": SCRIPT})


@pytest.fixture(scope="module")
def system(tiny_bi_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    home = tmp_path_factory.mktemp("console")
    with running_system(home, tiny_bi_encoder, "--metrics-listen", "127.0.0.1:0") as system:
        with SearchClient(system.address) as client:
            indexed = client.index("books", books(), create=True, filterable_fields={"shelf": "number"})
            assert all(one.outcome == "indexed" for one in indexed)
        yield system


@pytest.fixture(scope="module")
def base(system: System) -> Iterator[str]:
    with gateway_of(system) as process:
        yield f"http://{process.address}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = require(shutil.which("chromium"), "chromium is not installed: run `make test` as root on Debian")
    with sync_playwright() as playwright:
        # Every launch has a folder of its own.
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, base: str) -> Iterator[Page]:
    """Yield a page that must not log errors and may only reach the gateway."""
    page = browser.new_page(base_url=base, viewport={"width": 1280, "height": 800})
    page.set_default_timeout(WAIT_MS)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if is_complaint(message) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith("http://127.0.0.1:") else complaints.append(request.url),
    )
    yield page
    page.close()
    assert not complaints


def is_complaint(message: ConsoleMessage) -> bool:
    """Whether a page complains. That the gateway refused something is noted by the browser itself."""
    return message.type in {"error", "warning"} and not re.search("status of 40[01]", message.text)


def results(page: Page) -> Locator:
    return page.get_by_test_id("result")


def await_results(page: Page, count: int) -> None:
    expect(results(page)).to_have_count(count)


def test_search_by_keyboard(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("gold in the river")
    page.keyboard.press("Enter")
    await_results(page, 10)
    first = results(page).first
    expect(first.locator("mark").first).to_have_text("gold")
    expect(first.locator(".standing").first).to_contain_text("by dense")
    expect(first.locator(".standing").last).to_contain_text("1st after rerank")
    expect(page.locator(".stage")).to_have_count(3)
    assert "q=gold+in+the+river" in page.url

    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(results(page).nth(1)).to_be_focused()
    page.keyboard.press("k")
    expect(first).to_be_focused()
    page.keyboard.press("Enter")
    expect(first).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next, previous result")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("2")
    expect(page.get_by_role("link", name="Compare")).to_have_attribute("aria-current", "page")
    page.go_back()
    await_results(page, 10)


def test_a_search_is_shared_by_its_address_with_pipeline_and_filter(page: Page) -> None:
    page.goto("/?q=gold&collection=books&pipeline=fast&filter=shelf+%3D%3D+1&top=3")
    await_results(page, 3)
    assert all("shelf 1" in text for text in results(page).all_inner_texts())
    expect(page.locator(".waterfall")).to_contain_text("pipeline fast")
    page.get_by_label("Filter").fill("shelf ==")
    page.get_by_label("Filter").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("expected a value")


def test_two_pipelines_side_by_side(page: Page) -> None:
    page.goto("/?view=compare&q=gold+river&a=fast&b=hybrid")
    await_results(page, 20)
    expect(page.get_by_test_id("side")).to_have_count(2)
    expect(page.locator(".overlap")).to_contain_text("documents in both")
    assert page.locator(".move").count() == 20
    shared = page.locator(".move:not(.only)").first.locator("xpath=ancestor::li")
    shared.hover()
    expect(page.locator(".paired")).to_have_count(2)


def test_a_stopped_reranker_is_shown_as_a_degraded_answer(page: Page, system: System) -> None:
    system.kill("reranking")
    try:
        page.goto("/?q=gold+and+sand")
        await_results(page, 10)
        expect(page.get_by_test_id("degraded")).to_contain_text("rerank was left out")
        expect(page.locator(".stage.skipped")).to_contain_text("rerank")
        page.goto("/?view=services")
        expect(page.locator(".health.bad")).to_have_text("unavailable")
    finally:
        system.restart("reranking")
    with SearchClient(system.address) as client:
        until(lambda: not client.search("books", "gold", timeout_s=30).degraded)


def test_a_script_in_a_document_does_not_run(page: Page) -> None:
    page.goto("/?q=evil+script&pipeline=hybrid&filter=shelf+%3D%3D+9")
    await_results(page, 1)
    row = results(page).first
    expect(row).to_contain_text(SCRIPT)
    expect(row.get_by_text(f"note {SCRIPT}")).to_be_visible()
    row.click()
    assert page.evaluate("window.ran") is None
    assert row.locator("script, img").count() == 0
    page.goto(f"/?q={SCRIPT.replace(' ', '%20')}")
    await_results(page, 10)
    assert page.evaluate("window.ran") is None


def test_a_file_is_indexed_with_progress(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "more.jsonl"
    lines = [json.dumps({"id": f"m{n}", "text": f"mined {WORDS[n % 10]} " * 40}) for n in range(1500)]
    file.write_text("\n".join([*lines, "not json"]))
    page.goto("/?view=index&collection=mined")
    page.get_by_label("File").set_input_files(file)
    page.get_by_role("button", name="Index").click()
    progress = page.get_by_test_id("progress")
    expect(progress).to_have_attribute("data-state", "done")
    expect(progress).to_contain_text("1,500 indexed, 0 unchanged, 1 failed")
    expect(progress).to_contain_text("line 1501")
    page.goto("/?view=collections")
    expect(page.get_by_role("row", name="mined")).to_contain_text("1,500")


def test_a_file_is_dropped_anywhere(page: Page) -> None:
    page.goto("/?q=gold")
    await_results(page, 10)
    dropped = page.evaluate_handle(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(['{"id": "x", "text": "dropped gold"}'], "dropped.jsonl"));
          return data;
        }"""
    )
    page.dispatch_event("main", "drop", {"dataTransfer": dropped})
    expect(page.get_by_text("dropped.jsonl")).to_be_visible()
    page.get_by_label("into").fill("dropped")
    page.get_by_role("button", name="Index").click()
    expect(page.get_by_test_id("progress")).to_contain_text("1 indexed")


def test_collections_and_services_are_told(page: Page) -> None:
    page.goto("/?view=collections")
    row = page.get_by_role("row", name="books")
    expect(row).to_contain_text("shelf (number)")
    expect(row).to_contain_text("32, cosine")
    expect(page.get_by_text("Live recall")).to_be_visible()
    page.keyboard.press("4")
    expect(page.get_by_test_id("service")).to_have_count(4)
    expect(page.locator(".health.ok")).to_have_count(4)
    expect(page.get_by_text("CPU").first).to_be_visible()
    expect(page.locator(".chart path").first).to_be_attached()


class Guarded(ExactRetrieval):
    """Lets bearers of one token see that there is nothing."""

    async def ListCollections(self, request: Any, context: Any) -> Any:
        if dict(context.invocation_metadata()).get("authorization") != "Bearer open sesame":
            raise Unauthenticated("expected a bearer token")
        return ListCollectionsResponse()


@asynccontextmanager
async def guarded() -> AsyncIterator[str]:
    """Yield the URL of a gateway whose retrieval requires a token."""
    async with (
        retrieval_server(Guarded()) as retrieval,
        ScriptedSearch().served() as orchestrator,
        gateway(retrieval=retrieval, orchestrator=orchestrator) as there,
    ):
        yield f"http://{there.address}"


def test_a_token_is_asked_for_once_where_one_is_wanted(page: Page) -> None:
    with in_background(guarded()) as url:
        page.goto(f"{url}/?view=collections")
        page.get_by_label("Token").fill("open sesame")
        page.keyboard.press("Enter")
        expect(page.get_by_text("None yet")).to_be_visible()
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.goto("about:blank")


class OneCollection(ExactRetrieval):
    """Has a collection without a sparse field."""

    async def ListCollections(self, request: Any, context: Any) -> Any:
        schema = Schema(dense_fields=[DenseField(name="dense", dimensions=32)])
        return ListCollectionsResponse(collections=[Collection(name="books", schema=schema, document_count=1)])


@asynccontextmanager
async def degraded() -> AsyncIterator[str]:
    """The URL of a gateway whose answers report a stage that ended early, and one without a field."""
    stages = [
        StageReport(
            stage="dense",
            status=StageReport.STATUS_OK,
            kept_count=1,
            duration=Duration(nanos=2_000_000),
            truncated_count=2,
        ),
        StageReport(stage="terms", status=StageReport.STATUS_LEFT_OUT),
        StageReport(
            stage="rerank",
            status=StageReport.STATUS_PARTIAL,
            given_count=1,
            duration=Duration(nanos=3_000_000),
            reason="DEADLINE: the stage's share of the time ended",
        ),
    ]
    answer = SearchResponse(
        results=[Result(document=DocumentMessage(document_id="d1", title="Book 1", text="Gold."), score=0.5)],
        stages=stages,
        degraded=True,
        pipeline="default",
        duration=Duration(nanos=5_000_000),
    )
    async with (
        retrieval_server(OneCollection()) as retrieval,
        ScriptedSearch(answer).served() as orchestrator,
        gateway(retrieval=retrieval, orchestrator=orchestrator) as there,
    ):
        yield f"http://{there.address}"


def color(locator: Locator) -> str:
    return str(locator.evaluate("element => getComputedStyle(element).color"))


def test_a_stage_that_the_collection_has_no_field_for_is_no_warning(page: Page) -> None:
    with in_background(degraded()) as url:
        page.goto(f"{url}/?q=gold")
        await_results(page, 1)
        unused, used, late = (page.locator(f".stage.{status}") for status in ("left_out", "ok", "partial"))
        expect(unused).to_contain_text("terms")
        expect(unused.locator(".took")).to_have_text("not used")
        expect(used.locator(".counts")).to_have_text("1, 2 truncated")
        expect(unused.locator(".bar")).to_be_hidden()
        for part in (".name", ".took"):
            assert color(unused.locator(part)) == color(used.locator(".took")) != color(late.locator(part)), part
        expect(page.get_by_test_id("degraded")).to_contain_text("rerank was cut short")
        expect(page.get_by_test_id("degraded")).not_to_contain_text("terms")
        page.goto("about:blank")


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_a_phone_and_the_dark_is_dark(page: Page, view: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.goto(f"/?view={view}&q=gold+river")
    expect(page.locator("main > *").first).to_be_visible()
    if view in {"search", "compare"}:
        await_results(page, 10 if view == "search" else 20)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(21, 22, 20)"
