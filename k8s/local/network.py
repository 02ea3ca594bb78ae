# SPDX-License-Identifier: Apache-2.0
"""The network of the cluster: a bridge in the control plane's namespace, and a namespace for each node
and for a client, each with a cable to it. Nothing of it touches the machine's own network."""

from __future__ import annotations

from processes import inside, run
from settings import CLIENT, CLIENT_ADDRESS, CONTROL, CONTROL_ADDRESS, PREFIX, SERVICE_RANGE, Node

BRIDGE = "cluster"


def _in(namespace: str, *command) -> str:
    return run(*inside(namespace), *command)


def _namespace(name: str) -> None:
    run("ip", "netns", "add", name)
    _in(name, "ip", "link", "set", "lo", "up")
    _in(name, "sysctl", "-qw", "net.ipv4.ip_forward=1")


def _cable(name: str, namespace: str, address: str) -> None:
    """A cable whose end `name` is at the bridge, and whose other one is the namespace's eth0."""
    _in(CONTROL, "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _in(CONTROL, "ip", "link", "set", name, "master", BRIDGE, "up")
    _in(namespace, "ip", "address", "add", f"{address}/24", "dev", "eth0")
    _in(namespace, "ip", "link", "set", "eth0", "up")
    if namespace != CONTROL:
        _in(namespace, "ip", "route", "add", "default", "via", CONTROL_ADDRESS)


def make(nodes: list[Node]) -> None:
    _namespace(CONTROL)
    _in(CONTROL, "ip", "link", "add", BRIDGE, "type", "bridge")
    _in(CONTROL, "ip", "address", "add", f"{CONTROL_ADDRESS}/24", "dev", BRIDGE)
    _in(CONTROL, "ip", "link", "set", BRIDGE, "up")
    # The apiserver looks for an address by the default route.
    _in(CONTROL, "ip", "route", "add", "default", "dev", BRIDGE)
    for node in nodes:
        _namespace(node.namespace)
        _cable(node.name, node.namespace, node.address)
    _namespace(CLIENT)
    _cable("client", CLIENT, CLIENT_ADDRESS)
    for namespace, own in [(CONTROL, None), (CLIENT, None), *((node.namespace, node) for node in nodes)]:
        for node in nodes:
            if node is not own:
                _in(namespace, "ip", "route", "add", node.pods, "via", node.address)
    # A client reaches Services through the first node, as through a router.
    _in(CLIENT, "ip", "route", "add", SERVICE_RANGE, "via", nodes[0].address)


def set_cable(node: Node, up: bool) -> None:
    """Cuts the node off, or joins it again."""
    _in(CONTROL, "ip", "link", "set", node.name, "up" if up else "down")


def namespaces() -> list[str]:
    return [line.split()[0] for line in run("ip", "netns", "list").splitlines()
            if line.startswith(PREFIX)]


def remove() -> None:
    for name in namespaces():
        run("ip", "netns", "delete", name)

