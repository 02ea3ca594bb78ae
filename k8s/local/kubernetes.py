#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev kubernetes`: a real Kubernetes on this machine, for tests and to try the chart: control plane,
nodes with kubelet and containerd in network namespaces of their own, real pods, Services and volumes.
Needs root; nothing of it is reachable from outside, and `down` leaves nothing behind."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import sys
import time

import control
import images
import metrics
import network
import nodes
import processes
import programs
from processes import inside, run
from settings import (CLIENT, CONTROL, NODE_PORT, NODES_MAX, ROOT, RUN, WORK, ClusterError, Node, say)

STATE = WORK / "cluster.json"
PAUSE = WORK / "pause.tar"
TOOLS = ROOT / "build/tools"
NAMESPACE = "allezon"
RESTRICTED = "pod-security.kubernetes.io/enforce"


def the_nodes() -> list[Node]:
    if not STATE.exists():
        raise ClusterError("there is no cluster", "./dev kubernetes up")
    return [Node(number) for number in json.loads(STATE.read_text(encoding="utf-8"))["nodes"]]


def image_archives() -> list[pathlib.Path]:
    """The image under every tag that it was built with, so that one can be changed for another."""
    found = sorted((ROOT / "build/image").glob("allezon-*.tar"))
    if not found:
        raise ClusterError("there is no image", "./dev image")
    return found


def images_of_nodes() -> list[pathlib.Path]:
    return [PAUSE, *image_archives()]


def up(options: argparse.Namespace) -> float:
    """How long it took, in seconds, once the programs were built."""
    if STATE.exists() or network.namespaces():
        raise ClusterError("there is a cluster, or what is left of one", "./dev kubernetes down")
    if not 1 <= options.nodes <= NODES_MAX:
        raise ClusterError(f"--nodes: 1 to {NODES_MAX}")
    image_archives()
    built = programs.build()
    begun = time.monotonic()
    chosen = [Node(number + 1) for number in range(options.nodes)]
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    RUN.mkdir(exist_ok=True)
    STATE.write_text(json.dumps({"nodes": [node.number for node in chosen]}), encoding="utf-8")
    (WORK / "resolv.conf").write_text("options ndots:1\n", encoding="utf-8")
    say("starting the control plane")
    network.make(chosen)
    control.make_users(chosen)
    control.start(built, metrics.apiserver_flags())
    images.write(PAUSE, nodes.PAUSE, built / "pause")
    for node in chosen:
        say(f"starting node {node.name}, with {', '.join(path.name for path in images_of_nodes())}")
        nodes.start(node, built, images_of_nodes())
    processes.wait_for("the nodes to be ready", lambda: ready_nodes() == len(chosen), 90,
                       tuple(f"{node.name}-kubelet" for node in chosen))
    control.apply(nodes.volumes(chosen))
    metrics.start(built)
    processes.start("policies", CONTROL, sys.executable, pathlib.Path(__file__).with_name("policies.py"),
                    *(node.number for node in chosen))
    took = time.monotonic() - begun
    say(f"{len(chosen)} nodes are ready after {took:.0f} s; ./dev kubernetes install installs the chart")
    return took


def ready_nodes() -> int:
    return sum(condition["type"] == "Ready" and condition["status"] == "True"
               for item in control.api().get("/api/v1/nodes")["items"]
               for condition in item["status"].get("conditions", []))


def install(options: argparse.Namespace) -> None:
    the_nodes()
    begun = time.monotonic()
    if not control.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found"):
        control.apply([{"apiVersion": "v1", "kind": "Namespace",
                        "metadata": {"name": NAMESPACE, "labels": {RESTRICTED: "restricted"}}}])
    values = options.values or [str(ROOT / "k8s/chart/values-local.yaml")]
    command = ["upgrade", "--install", "allezon", str(ROOT / "k8s/chart"), "--namespace", NAMESPACE,
               "--set", f"gateway.service.type=NodePort,gateway.service.nodePort={NODE_PORT}",
               "--set", "image.pullPolicy=Never", "--wait", "--timeout", "5m"]
    for value in values:
        command += ["--values", value]
    for value in options.set:
        command += ["--set", value]
    if run_here([*inside(CONTROL), str(TOOLS / "helm"), "--kubeconfig", str(control.ADMIN), *command]) != 0:
        raise ClusterError("helm could not install the chart",
                           "./dev kubernetes kubectl -n allezon get pods,events")
    say(f"installed and ready after {time.monotonic() - begun:.0f} s")


def run_here(command: list[str], **variables: str) -> int:
    """With this terminal; the exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            os.execvpe(command[0], command, {**os.environ, **variables})
        except OSError as error:
            print(f"error: {command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def down() -> None:
    left = the_nodes() if STATE.exists() else [Node(number + 1) for number in range(NODES_MAX)]
    processes.end([name for name in processes.names() if name in (*control.PROCESSES[2:], metrics.NAME, "policies")])
    nodes.stop(left)
    processes.end(processes.names())
    processes.forget()
    shutil.rmtree(WORK, ignore_errors=True)
    say("the cluster is gone")


def passed_on(command: str, words: list[str]) -> int:
    the_nodes()
    if command == "run":
        words = words[1:] if words[:1] == ["--"] else words
        if not words:
            raise ClusterError("./dev kubernetes run -- CMD")
        return run_here([*inside(CLIENT), *words], KUBECONFIG=str(control.ADMIN),
                        GATEWAY=f"{the_nodes()[0].address}:{NODE_PORT}",
                        PATH=f"{TOOLS}:{os.environ.get('PATH', '/usr/bin:/bin')}")
    return run_here([*inside(CONTROL), str(TOOLS / command), "--kubeconfig", str(control.ADMIN), *words])


def main() -> int:
    if sys.argv[1:2] and sys.argv[1] in ("kubectl", "helm", "run"):
        action = lambda: passed_on(sys.argv[1], sys.argv[2:])  # noqa: E731
    else:
        parser = argparse.ArgumentParser(prog="./dev kubernetes", description=__doc__, allow_abbrev=False)
        commands = parser.add_subparsers(dest="command", required=True)
        starting = commands.add_parser("up", help="starts the cluster, and loads the image of ./dev image")
        starting.add_argument("--nodes", type=int, default=3, help="(default %(default)s)")
        installing = commands.add_parser("install", help="installs or upgrades the chart, and waits")
        installing.add_argument("-f", "--values", action="append", metavar="FILE",
                                help="values (default: k8s/chart/values-local.yaml)")
        installing.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
        commands.add_parser("kubectl", help="kubectl of this cluster")
        commands.add_parser("helm", help="helm of this cluster")
        commands.add_parser("run", help="run -- CMD: in the network of a client, with $GATEWAY and $KUBECONFIG")
        commands.add_parser("test", help="rehearses faults under load (test --help)", add_help=False)
        commands.add_parser("down", help="ends it, with its data")
        options = parser.parse_args()
        action = {"up": lambda: up(options) and 0, "install": lambda: install(options),
                  "down": down}[options.command]
    try:
        return action() or 0
    except ClusterError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        for line in error.args[1:]:
            print(f"       {line}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
