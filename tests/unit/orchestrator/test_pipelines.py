from pathlib import Path

import pytest
from sluice.errors import DeadlineExpired, Unavailable

from services.orchestrator.pipelines.loader import PipelinesError, load, parse
from services.orchestrator.pipelines.schema import PACKAGED, WeightedSum
from services.orchestrator.pipelines.watcher import PipelineFile

ROOT = Path(__file__).parents[3]
GOOD = """
default:
  description: One sentence.
  retrieve:
    - {name: left, kind: dense, depth: 20}
    - {name: right, kind: dense, field: other, depth: 30, on_error: skip, share: 0.4}
  fuse: {method: weighted_sum, normalisation: z_score, weights: {left: 1, right: 0.5}, depth: 40}
  rerank:
    - {name: rerank, depth: 25, interpolate: {weight: 0.5, normalisation: min_max}}
    - {name: again, model: larger, depth: 10, on_error: fail}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(PipelinesError) as caught:
        parse(text, source="p.yaml")
    return caught.value.problems


def test_the_packaged_pipelines_are_valid() -> None:
    pipelines = load(PACKAGED)
    assert sorted(pipelines) == ["balanced", "default", "exact", "fast", "reranked"]
    assert pipelines["default"] == pipelines["balanced"]
    assert [pipelines[name].max_top_k for name in ("fast", "balanced", "exact", "reranked")] == [100, 100, 100, 50]
    assert not pipelines["default"].rescoring


def test_the_documented_pipeline_is_valid() -> None:
    document = (ROOT / "services" / "orchestrator" / "PIPELINES.md").read_text()
    example = document.split("```yaml\n")[1].split("```")[0]
    assert parse(example, source="pipelines.md")["default"].max_top_k == 50


def test_a_pipeline_is_parsed() -> None:
    pipeline = parse(GOOD, source="p.yaml")["default"]
    assert [stage.name for stage in pipeline.retrieve] == ["left", "right"]
    assert isinstance(pipeline.fuse, WeightedSum)
    assert pipeline.fuse.weights == {"left": 1.0, "right": 0.5}
    assert pipeline.max_top_k == 10


def test_the_depth_of_a_refinement_is_the_last() -> None:
    text = GOOD.split("  rerank:", maxsplit=1)[0] + "  refine: {name: maxsim, depth: 15, model: late}\n"
    pipeline = parse(text, source="p.yaml")["default"]
    assert (pipeline.max_top_k, pipeline.last_stage) == (15, "maxsim")


@pytest.mark.parametrize(
    ("told", "forgives_failure", "forgives_lateness"),
    [
        ("on_error: skip", True, True),
        ("on_error: fail", False, False),
        ("on_error: fail, on_timeout: skip, share: 0.5", False, True),
        ("on_error: skip, on_timeout: fail", True, False),
    ],
)
def test_a_stage_forgives_the_errors_it_is_configured_for(
    told: str, forgives_failure: bool, forgives_lateness: bool
) -> None:
    stage = parse(GOOD.replace("on_error: fail", told), source="p.yaml")["default"].rerank[1]
    assert stage.forgives(Unavailable("away")) is forgives_failure
    assert stage.forgives(DeadlineExpired("late")) is forgives_lateness
    assert stage.may_run_out_of_time is forgives_lateness


CASES = {
    "depth that grows": ("depth: 25", "depth: 41", "9: default.rerank.0.depth: expected at most 40"),
    "fusion deeper than all it is given": ("depth: 40", "depth: 51", "7: default.fuse.depth: expected at most 50"),
    "unknown key": ("field: other", "feld: other", "6: default.retrieve.1.feld: Extra inputs"),
    "kind that is not there": (
        "left, kind: dense",
        "left, kind: graph",
        "5: default.retrieve.0.kind: Input should be",
    ),
    "model for words": (
        "left, kind: dense",
        "left, kind: text, model: x",
        "5: default.retrieve.0.model: expected",
    ),
    "depth of zero": ("depth: 20", "depth: 0", "5: default.retrieve.0.depth: Input should be greater"),
    "weights for others": ("right: 0.5", "middle: 0.5", "7: default.fuse.weights: expected a weight for each of left"),
    "share of a stage that may not run out of time": (
        "on_error: skip, share: 0.4",
        "on_error: skip, on_timeout: fail, share: 0.4",
        "6: default.retrieve.1.share: expected none with on_timeout: fail",
    ),
    "name of another stage": (
        "  rerank:\n",
        "  refine: {name: left, depth: 30}\n  rerank:\n",
        "8: default.refine.name: expected a name of its own",
    ),
    "refinement deeper than it is given": (
        "  rerank:\n",
        "  refine: {name: maxsim, depth: 41}\n  rerank:\n",
        "8: default.refine.depth: expected at most 40",
    ),
    "reranker deeper than the refinement": (
        "  rerank:\n",
        "  refine: {name: maxsim, depth: 24}\n  rerank:\n",
        "10: default.rerank.0.depth: expected at most 24",
    ),
    "name twice": ("name: again", "name: rerank", "10: default.rerank.1.name: expected a name of its own"),
    "name that reports use": ("name: again", "name: fuse", "10: default.rerank.1.name: expected a name of its own"),
    "share for a stage that may not be skipped": (
        "on_error: fail",
        "on_error: fail, share: 0.5",
        "10: default.rerank.1.share: expected none with on_error: fail",
    ),
    "windows that share fewer tokens than none": (
        "depth: 25",
        "depth: 25, windows: {overlap: -1}",
        "9: default.rerank.0.windows.overlap: Input should be greater than or equal to 0, got -1",
    ),
    "windows of unknown keys": (
        "depth: 25",
        "depth: 25, windows: {size: 5}",
        "9: default.rerank.0.windows.size: Extra inputs",
    ),
    "windows of a retriever": ("depth: 20", "depth: 20, windows: {}", "5: default.retrieve.0.windows: Extra inputs"),
    "weight over 1": ("weight: 0.5", "weight: 1.5", "9: default.rerank.0.interpolate.weight: Input should be less"),
    "key twice": ("depth: 25", "depth: 25, depth: 24", "9: expected each key once, got 'depth' again"),
    "no default": ("default:", "other:", "1: expected a pipeline named default, got none"),
    "not YAML": ("default:", "default: [", "expected YAML"),
    "a list": (GOOD, "- a\n- b\n", "1: expected pipelines by name, got list"),
    "nothing": (GOOD, "", "1: expected pipelines by name, got NoneType"),
    "a name in capitals": ("default:", "Default:\n  x: 1\ndefault:", "2: Default"),
}


@pytest.mark.parametrize(("old", "new", "words"), CASES.values(), ids=CASES.keys())
def test_problems_of_a_file_are_reported_with_their_lines(old: str, new: str, words: str) -> None:
    told = problems(GOOD.replace(old, new, 1))
    assert any(words in problem for problem in told), told
    assert all(problem.startswith("p.yaml:") for problem in told)


def test_all_problems_are_reported_in_the_order_of_lines() -> None:
    text = GOOD + "fast:\n  description: ''\n  retrieve: []\n"
    told = problems(text.replace("depth: 25", "depth: 60"))
    assert [problem.split(": ")[1] for problem in told] == [
        "default.rerank.0.depth",
        "fast.description",
        "fast.retrieve",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a, kind: dense, depth: 5, on_error: skip", "on_error: expected fail for the only retriever, got skip"),
        ("a, kind: dense, depth: 5, on_timeout: skip", "on_timeout: expected fail for the only retriever, got skip"),
        ("a, kind: dense, depth: 5}\n    - {name: b, kind: dense, depth: 5", "got none for 2"),
    ],
)
def test_contradictions_are_rejected(text: str, words: str) -> None:
    told = problems(f"default:\n  description: x\n  retrieve:\n    - {{name: {text}}}\n")
    assert any(words in problem for problem in told), told


def test_a_changed_file_is_used_if_it_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(GOOD)
    file = PipelineFile(path)
    assert not file.refresh()
    before = file.current

    path.write_text(GOOD.replace("depth: 25", "depth: 250"))
    assert not file.refresh()
    assert file.current is before

    path.unlink()
    assert not file.refresh()
    assert file.current is before

    path.write_text(GOOD.replace("depth: 25", "depth: 24"))
    assert file.refresh()
    assert file.current["default"].rerank[0].depth == 24
    assert not file.refresh()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelinesError, match="No such file"):
        load(tmp_path / "absent.yaml")
