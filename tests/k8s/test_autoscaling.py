"""What the autoscalers ask Prometheus for is the mean wait of queries, also when there is none; by `promtool`."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.manifests import K8S, objects, of_kind, render_combinations
from tests.support.prometheus import program

# Two pods: 60 waits a minute of 10 ms each, and of 50 ms; what bulk work waits does not count.
BUSY = {
    '{namespace="sluice",pod="embedding-a",lane="interactive"}': ("0+0.6x20", "0+60x20"),
    '{namespace="sluice",pod="embedding-b",lane="interactive"}': ("0+3x20", "0+60x20"),
    '{namespace="sluice",pod="embedding-b",lane="bulk"}': ("0+600x20", "0+60x20"),
}
IDLE = {labels: ("0x20", "0x20") for labels in BUSY}


def evaluated(query: str, load: dict[str, tuple[str, str]], expected: list[dict[str, Any]], folder: Path) -> None:
    """Check by promtool that a query gives these samples after ten minutes of a load."""
    series = [
        {"series": f"sluice_queue_seconds_{what}{labels}", "values": values[index]}
        for labels, values in load.items()
        for index, what in enumerate(("sum", "count"))
    ]
    case = {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [{"expr": f"round({query}, 0.001)", "eval_time": "10m", "exp_samples": expected}],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump({"tests": [case]}))
    command = [program("promtool"), "test", "rules", "test.yaml"]
    ran = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(("load", "wait_s"), [(BUSY, 0.03), (IDLE, 0)], ids=["busy", "idle"])
def test_keda_asks_for_the_mean_of_all_replicas(
    load: dict[str, tuple[str, str]], wait_s: float, tmp_path: Path
) -> None:
    (found,) = render_combinations((("keda",),)).values()
    (trigger,) = of_kind(found, "ScaledObject")["embedding"]["spec"]["triggers"]
    assert trigger["metricType"] == "Value", "a mean is not divided by the number of pods again"
    evaluated(trigger["metadata"]["query"], load, [{"labels": "{}", "value": wait_s}], tmp_path)


@pytest.mark.parametrize(("load", "waits_s"), [(BUSY, (0.01, 0.05)), (IDLE, (0, 0))], ids=["busy", "idle"])
def test_the_adapter_asks_for_the_mean_of_each_pod(
    load: dict[str, tuple[str, str]], waits_s: tuple[float, float], tmp_path: Path
) -> None:
    (adapter,) = (one for name, one in _config_maps().items() if name.startswith("sluice-adapter"))
    (rule,) = yaml.safe_load(adapter["data"]["config.yaml"])["rules"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="sluice"')
    pods = zip(("embedding-a", "embedding-b"), waits_s, strict=True)
    evaluated(query, load, [{"labels": f'{{pod="{pod}"}}', "value": wait} for pod, wait in pods], tmp_path)


def _config_maps() -> dict[str, Any]:
    return of_kind(objects(K8S / "overlays" / "production"), "ConfigMap")


def test_both_scale_at_the_same_wait() -> None:
    (found,) = render_combinations((("keda",),)).values()
    for name, scaler in of_kind(found, "ScaledObject").items():
        other = of_kind(objects(K8S / "overlays" / "production"), "HorizontalPodAutoscaler")[name]["spec"]
        (metric,) = other["metrics"]
        (trigger,) = scaler["spec"]["triggers"]
        assert metric["pods"]["target"]["averageValue"] == f"{1000 * float(trigger['metadata']['threshold']):g}m"
        assert (scaler["spec"]["minReplicaCount"], scaler["spec"]["maxReplicaCount"]) == (
            other["minReplicas"],
            other["maxReplicas"],
        )
