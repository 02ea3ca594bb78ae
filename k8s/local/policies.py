# SPDX-License-Identifier: Apache-2.0
"""Enforces NetworkPolicies: the CNI plugins of Debian know none. Looks at policies and pods every second
and gives each node the nftables rules that follow; a new pod is open until then.

What a node routes passes its forward hook, also between two of its pods (each has a cable of its own),
and Services are resolved before it. The kubelet's probes come from the node itself, and pass."""

from __future__ import annotations

import sys
import time

import control
from processes import inside, run
from settings import ClusterError, Node

TABLE = "allezon_policies"
PERIOD_S = 1.0


def matches(selector: dict, labels: dict) -> bool:
    """A label selector of Kubernetes; an empty one takes everything."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for term in selector.get("matchExpressions", []):
        value, values = labels.get(term["key"]), term.get("values", [])
        holds = {"In": value is not None and value in values, "NotIn": value not in values,
                 "Exists": value is not None, "DoesNotExist": value is None}[term["operator"]]
        if not holds:
            return False
    return True


class Pod:
    def __init__(self, item: dict):
        self.namespace, self.name = item["metadata"]["namespace"], item["metadata"]["name"]
        self.labels = item["metadata"].get("labels", {})
        self.address = item["status"].get("podIP", "")
        self.node = item["spec"].get("nodeName", "")
        self.ports = {port["name"]: port["containerPort"] for container in item["spec"]["containers"]
                      for port in container.get("ports", []) if "name" in port}


def is_on_network(item: dict) -> bool:
    return bool(item["status"].get("podIP")) and not item["spec"].get("hostNetwork") and \
        item["status"].get("phase") in ("Pending", "Running")


def peers_of(rule_peers: list[dict], policy: dict, pods: list[Pod], spaces: dict[str, dict]):
    """The pods and the blocks of addresses that a rule's peers are."""
    chosen, blocks = [], []
    for peer in rule_peers:
        if "ipBlock" in peer:
            blocks.append(peer["ipBlock"])
            continue
        for pod in pods:
            own = pod.namespace == policy["metadata"]["namespace"]
            there = matches(peer["namespaceSelector"], spaces.get(pod.namespace, {})) \
                if "namespaceSelector" in peer else own
            if there and matches(peer.get("podSelector", {}), pod.labels):
                chosen.append(pod)
    return chosen, blocks


def port_matches(ports: list[dict], target: Pod | None) -> list[str]:
    """The nftables expressions of a rule's ports, names being the target's; [""]: all."""
    found = []
    for port in ports:
        protocol, number = port.get("protocol", "TCP").lower(), port.get("port")
        if isinstance(number, str):
            number = target.ports.get(number) if target else None
            if number is None:
                continue
        if number is None:
            found.append(f"meta l4proto {protocol}")
        else:
            end = f"-{port['endPort']}" if "endPort" in port else ""
            found.append(f"{protocol} dport {number}{end}")
    return found if ports else [""]


def allowed(rule: dict, side: str, pod: Pod, policy: dict, pods: list[Pod], spaces: dict) -> list[str]:
    """The nftables expressions of what a rule lets through to or from the pod."""
    ingress = side == "ingress"
    word = "saddr" if ingress else "daddr"
    ports, peers = rule.get("ports", []), rule.get("from" if ingress else "to", [])
    if not peers:
        # Names of ports are those of pods: for all others such a rule says nothing.
        targets = [pod] if ingress else [None, *(other for other in pods if any(
            isinstance(port.get("port"), str) for port in ports))]
        return [f"{'' if ingress or not target else f'ip daddr {target.address} '}{match}".strip()
                for target in targets for match in port_matches(ports, target)]
    chosen, blocks = peers_of(peers, policy, pods, spaces)
    found = [f"ip {word} {peer.address} {match}".strip() for peer in chosen
             for match in port_matches(ports, pod if ingress else peer)]
    for block in blocks:
        but = f" ip {word} != {{ {', '.join(block['except'])} }}" if block.get("except") else ""
        found += [f"ip {word} {block['cidr']}{but} {match}".strip()
                  for match in port_matches(ports, pod if ingress else None)]
    return found


def ruleset(node: str, policies: list[dict], pods: list[Pod], spaces: dict[str, dict]) -> str:
    """The rules of a node, as nft reads them: they take the place of the former ones at once."""
    heads, chains = [], []
    for pod in (pod for pod in pods if pod.node == node):
        for side, word in (("egress", "saddr"), ("ingress", "daddr")):
            mine = [policy for policy in policies if policy["metadata"]["namespace"] == pod.namespace
                    and side.capitalize() in policy["spec"].get("policyTypes", ["Ingress"])
                    and matches(policy["spec"].get("podSelector", {}), pod.labels)]
            if not mine:
                continue
            chain = f"{side}_{pod.address.replace('.', '_')}"
            heads.append(f"    ip {word} {pod.address} jump {chain}")
            lines = sorted({match for policy in mine for rule in policy["spec"].get(side) or []
                            for match in allowed(rule, side, pod, policy, pods, spaces)})
            chains.append(f"  chain {chain} {{\n" + "".join(f"    {line} return\n" for line in lines) +
                          "    drop\n  }\n")
    return (f"table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n" + "".join(chains) +
            "  chain forward {\n    type filter hook forward priority 10; policy accept;\n"
            "    ct state established,related accept\n" + "".join(f"{head}\n" for head in heads) +
            "  }\n}\n")


def look() -> tuple[list[dict], list[Pod], dict[str, dict]]:
    def listed(path: str) -> list[dict]:
        return control.api().get(path)["items"]
    spaces = {item["metadata"]["name"]: item["metadata"].get("labels", {})
              for item in listed("/api/v1/namespaces")}
    pods = [Pod(item) for item in listed("/api/v1/pods") if is_on_network(item)]
    return listed("/apis/networking.k8s.io/v1/networkpolicies"), pods, spaces


def main() -> None:
    nodes = [Node(int(number)) for number in sys.argv[1:]]
    given: dict[str, str] = {}
    while True:
        try:
            state = look()
            for node in nodes:
                rules = ruleset(node.name, *state)
                if given.get(node.name) != rules:
                    run(*inside(node.namespace), "nft", "-f", "-", text=rules)
                    given[node.name] = rules
                    print(f"{node.name}: {rules.count(' jump ')} rules of pods", flush=True)
        except ClusterError as error:
            # The control plane may be away; what was given stays.
            print(f"waiting: {error}", flush=True)
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    main()
