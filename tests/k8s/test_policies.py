# SPDX-License-Identifier: Apache-2.0
"""The rules that the local cluster makes of NetworkPolicies."""

import sys

from chart import ROOT, render

sys.path.insert(0, str(ROOT / "k8s/local"))
import policies  # noqa: E402


def pods_of(objects):
    """A pod of each workload, and a stranger, all on node n1."""
    found = {}
    templates = {**{name: owner["spec"]["template"] for name, owner in objects.workloads().items()},
                 "test": objects.of("Pod")["allezon-test"],
                 "stranger": {"metadata": {"labels": {"app": "stranger"}}, "spec": {"containers": [{}]}}}
    for number, (name, template) in enumerate(templates.items()):
        found[name] = policies.Pod({
            "metadata": {"namespace": "shop" if name != "stranger" else "other", "name": name,
                         "labels": template["metadata"]["labels"]},
            "spec": {**template["spec"], "nodeName": "n1"}, "status": {"podIP": f"10.88.1.{number + 2}"}})
    return found


def chain(rules, side, pod):
    name = f"chain {side}_{pod.address.replace('.', '_')} {{"
    return [line.strip() for line in rules.split(name)[1].split("\n  }")[0].splitlines() if line.strip()]


def rules_of(values=None):
    objects = render(values)
    pods = pods_of(objects)
    listed = list(objects.of("NetworkPolicy").values())
    for policy in listed:
        policy["metadata"]["namespace"] = "shop"
    return policies.ruleset("n1", listed, list(pods.values()), {"shop": {}, "other": {"team": "x"}}), pods


def test_each_edge_is_open_by_the_number_of_its_port():
    rules, pods = rules_of()
    gateway, profile = pods["allezon-gateway"], pods["allezon-profile"]
    assert chain(rules, "ingress", profile) == sorted([
        f"ip saddr {gateway.address} tcp dport 7000 return",
        f"ip saddr {profile.address} tcp dport 7000 return",
        *(f"ip saddr {pod.address} tcp dport 9090 return" for pod in pods.values())]) + ["drop"]
    assert f"ip daddr {profile.address} tcp dport 7000 return" in chain(rules, "egress", gateway)
    assert chain(rules, "ingress", gateway) == ["tcp dport 8080 return", "drop"]
    assert chain(rules, "egress", pods["test"]) == [
        f"ip daddr {gateway.address} tcp dport 8080 return", "tcp dport 53 return",
        "udp dport 53 return", "drop"]


def test_who_has_no_policy_is_open():
    rules, pods = rules_of()
    assert pods["stranger"].address not in [line.split()[2] for line in rules.splitlines() if "jump" in line]
    assert "jump" not in rules_of({"networkPolicy": {"enabled": False}})[0]


def test_another_namespace_is_let_in_by_its_labels():
    rules, pods = rules_of({"networkPolicy": {"grpcFrom": [
        {"namespaceSelector": {"matchLabels": {"team": "x"}}}], "metricsFrom": []}})
    assert f"ip saddr {pods['stranger'].address} tcp dport 7000 return" in \
        chain(rules, "ingress", pods["allezon-profile"])
    assert "9090" not in rules


def test_selectors_are_those_of_kubernetes():
    labels = {"a": "1"}
    for expression, holds in ((("a", "In", ["1"]), True), (("a", "NotIn", ["1"]), False),
                              (("b", "NotIn", ["1"]), True), (("b", "In", ["1"]), False),
                              (("a", "Exists", None), True), (("a", "DoesNotExist", None), False)):
        key, operator, values = expression
        term = {"key": key, "operator": operator, **({"values": values} if values else {})}
        assert policies.matches({"matchExpressions": [term]}, labels) is holds, expression
    assert policies.matches({}, labels)
    assert not policies.matches({"matchLabels": {"a": "2"}}, labels)


def test_blocks_of_addresses_have_exceptions():
    policy = {"metadata": {"namespace": "shop"}, "spec": {
        "podSelector": {}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                    "ports": [{"port": 80, "endPort": 90}]}]}}
    pod = policies.Pod({"metadata": {"namespace": "shop", "name": "p"}, "status": {"podIP": "10.88.1.2"},
                        "spec": {"nodeName": "n1", "containers": []}})
    assert chain(policies.ruleset("n1", [policy], [pod], {}), "egress", pod)[0] == \
        "ip daddr 10.0.0.0/8 ip daddr != { 10.1.0.0/16 } tcp dport 80-90 return"
