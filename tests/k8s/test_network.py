"""The hops that the network policies let through are those of the picture, and no other."""

from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.manifests import K8S, Object, covering_combinations, objects, of_kind, pods, render_combinations

DNS = 53
METRICS = 9090
ANYONE = "anyone"
PORTS = {"orchestrator": 50050, "embedding": 50051, "retrieval": 50052, "reranking": 50053, "gateway": 8080}
MODEL_AND_DATA = ("embedding", "retrieval", "reranking")
SERVERS = ("orchestrator", *MODEL_AND_DATA)

Hop = tuple[str, str, int]


def picture(parts: Sequence[str]) -> set[Hop]:
    """Who calls whom at which port, drawn by hand."""
    servers = (*SERVERS, "gateway") if "gateway" in parts else SERVERS
    hops = {(ANYONE, "orchestrator", PORTS["orchestrator"])}
    hops |= {("orchestrator", one, PORTS[one]) for one in MODEL_AND_DATA}
    hops |= {("monitoring", one, METRICS) for one in servers}
    callers = {"orchestrator"}
    if "gateway" in parts:
        hops |= {(ANYONE, "gateway", PORTS["gateway"])} | {("gateway", one, PORTS[one]) for one in SERVERS}
        callers.add("gateway")
    if "snapshots" in parts:
        hops.add(("snapshots", "retrieval", PORTS["retrieval"]))
        callers.add("snapshots")
    if "milvus" in parts:
        hops.add(("retrieval", "milvus", 19530))
        callers.add("retrieval")
    if "tracing" in parts:
        hops |= {(one, "observability", 4317) for one in servers}
        callers.update(servers)
    return hops | {(one, "kube-system", DNS) for one in callers}


def allowed(found: Sequence[Object]) -> set[Hop]:
    """The hops that the policies let through. Between two pods both ends must: one that lets in vain is a mistake."""
    running = {template["metadata"]["labels"]["app.kubernetes.io/component"]: template for _, template in pods(found)}
    into, out = set(_rules(found, running, "ingress")), set(_rules(found, running, "egress"))
    for source, target, port in out:
        if target in running:
            assert (source, target, port) in into or (ANYONE, target, port) in into, f"{source} cannot enter {target}"
    for source, target, port in into:
        if source in running:
            assert (source, target, port) in out, f"{source} is let into {target}, and not out"
    return into | out


def _rules(found: Sequence[Object], running: dict[str, Object], way: str) -> Iterator[Hop]:
    peer = "from" if way == "ingress" else "to"
    for policy in of_kind(found, "NetworkPolicy").values():
        for name in _selected(policy["spec"]["podSelector"], running):
            for rule in policy["spec"].get(way, []):
                for other in _peers(rule.get(peer), running):
                    ends = (other, name) if way == "ingress" else (name, other)
                    for port in rule["ports"]:
                        if (number := _number(port["port"], running.get(ends[1]))) is not None:
                            yield (*ends, number)


def _selected(selector: dict[str, Any], running: dict[str, Object]) -> list[str]:
    """Names of the pods that a selector selects."""
    wanted: dict[str, str] = selector.get("matchLabels", {})
    anyof = {one["key"]: one["values"] for one in selector.get("matchExpressions", [])}
    labels = {name: template["metadata"]["labels"] for name, template in running.items()}
    return [
        name
        for name, own in labels.items()
        if wanted.items() <= own.items() and all(own.get(key) in values for key, values in anyof.items())
    ]


def _peers(peers: list[dict[str, Any]] | None, running: dict[str, Object]) -> Iterator[str]:
    if peers is None:
        yield ANYONE
    for one in peers or []:
        if "podSelector" in one:
            yield from _selected(one["podSelector"], running)
        else:
            yield one["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]


def _number(port: int | str, target: Object | None) -> int | None:
    """Return the number of a port; None if the target has none of that name."""
    if isinstance(port, int):
        return port
    assert target is not None, f"a named port, {port}, of something outside"
    return {one["name"]: int(one["containerPort"]) for one in target["spec"]["containers"][0].get("ports", [])}.get(
        port
    )


def test_the_hops_are_those_of_the_picture() -> None:
    for parts, found in render_combinations(covering_combinations()).items():
        assert allowed(found) == picture(parts), parts


def test_a_pod_that_no_other_policy_names_reaches_nothing_and_is_not_reached() -> None:
    for parts, found in render_combinations(covering_combinations()).items():
        rest = of_kind(found, "NetworkPolicy")["nothing-else"]["spec"]
        assert rest["policyTypes"] == ["Ingress", "Egress"], parts
        assert rest.keys() == {"podSelector", "policyTypes"}, parts
        labels = [template["metadata"]["labels"] for _, template in pods(found)]
        assert all(rest["podSelector"]["matchLabels"].items() <= own.items() for own in labels), parts


def test_the_load_job_reaches_the_orchestrator_alone() -> None:
    found = objects(K8S / "jobs" / "load")
    running = {"load": next(template for _, template in pods(found)), "orchestrator": _orchestrator()}
    assert set(_rules(found, running, "egress")) == {("load", "kube-system", DNS), ("load", "orchestrator", 50050)}


def _orchestrator() -> Object:
    labels = {"app.kubernetes.io/component": "orchestrator", "app.kubernetes.io/name": "sluice"}
    return {"metadata": {"labels": labels}, "spec": {"containers": [{}]}}
