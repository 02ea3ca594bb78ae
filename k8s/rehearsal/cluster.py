# SPDX-License-Identifier: Apache-2.0
"""A cluster that is rehearsed on: what runs there, and how to ask for it and change it."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "k8s/local")]
from apiserver import Apiserver, OwnProxy  # noqa: E402
from settings import ClusterError  # noqa: E402

TOOLS = ROOT / "build/tools"
CHART = ROOT / "k8s/chart"
VALUES = (CHART / "values-local.yaml", ROOT / "k8s/rehearsal/values.yaml")
RELEASE = "allezon"
SELECTOR = f"--selector=app.kubernetes.io/instance={RELEASE}"
SERVICES = ("profile", "aggregate")
GATEWAY = "gateway"
COMPONENTS = (*SERVICES, GATEWAY)
OURS = "allezon-rehearsal"  # the label of namespaces that may be deleted
READY_TIMEOUT_S = 180
POLL_S = 0.25


def holds(item: dict, condition: str) -> bool:
    """Whether an object says that of itself."""
    return any(found["type"] == condition and found["status"] == "True"
               for found in item["status"].get("conditions", []))


class Pod:
    def __init__(self, item: dict):
        metadata = item["metadata"]
        self.name, self.uid = metadata["name"], metadata["uid"]
        self.component = metadata["labels"].get("app.kubernetes.io/component", "")
        self.node = item["spec"].get("nodeName", "")
        self.image = item["spec"]["containers"][0]["image"]
        self.ending = "deletionTimestamp" in metadata
        self.ready = not self.ending and holds(item, "Ready")
        self.containers = item["status"].get("containerStatuses", [])


class Cluster:
    """`prefix`: a command that the tools run in. Values of the chart, by their paths: `image` says
    which, `outside` how the gateways are reached from without."""

    local = False
    namespace = "allezon"
    # What it offers of all that a rehearsal may need.
    offers: frozenset[str] = frozenset()

    def __init__(self, kubeconfig: pathlib.Path, prefix: list[str], image: dict[str, object],
                 outside: dict[str, object], api: Apiserver | None = None):
        self.prefix, self.kubeconfig = prefix, kubeconfig
        self.image, self.outside = image, outside
        self.api = api or OwnProxy(self.command("kubectl"))

    def close(self) -> None:
        self.api.close()

    def command(self, tool: str, *arguments) -> list[str]:
        return [*self.prefix, str(TOOLS / tool), f"--kubeconfig={self.kubeconfig}",
                *map(str, arguments)]

    def kubectl(self, *arguments, text: str | None = None, check: bool = True,
                namespace: str = "") -> str:
        """What it prints. `namespace`: another one than that of the installation."""
        words = ("-n", namespace or self.namespace, *arguments)
        result = subprocess.run(self.command("kubectl", *words), input=text, capture_output=True,
                                text=True, check=False)
        if check and result.returncode != 0:
            said = (result.stderr or result.stdout).strip()
            raise ClusterError(f"kubectl {' '.join(map(str, arguments))}: {said}")
        return result.stdout.strip()

    def helm(self, *arguments, namespace: str = "") -> tuple[bool, str]:
        """Whether it succeeded, and all that it said."""
        words = ("-n", namespace or self.namespace, *arguments)
        result = subprocess.run(self.command("helm", *words), capture_output=True, text=True,
                                check=False)
        return result.returncode == 0, (result.stdout + result.stderr).strip()

    # --- the installation ---

    def values(self, more: dict[str, object], outside: bool = True) -> list[str]:
        """helm's flags for the values of every rehearsal and `more`, by their paths."""
        chosen = self.image | (self.outside if outside else {}) | more
        return [*(f"--values={path}" for path in VALUES),
                *(f"--set={path}={value}" for path, value in chosen.items())]

    def install(self, more: dict[str, object]) -> float:
        """Installs or upgrades, and waits; how long it took, in seconds."""
        begun = time.monotonic()
        self.make_namespace(self.namespace)
        done, said = self.helm("upgrade", "--install", RELEASE, CHART, *self.values(more), "--wait",
                               f"--timeout={READY_TIMEOUT_S}s")
        if not done:
            raise ClusterError(f"helm upgrade --install: {said}", self.state())
        return time.monotonic() - begun

    def make_namespace(self, name: str) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted", OURS: "true"}
        self.kubectl("apply", "--server-side", "-f", "-", text=json.dumps({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))

    def erase(self, namespace: str = "") -> None:
        """The namespace with all data."""
        self.kubectl("delete", "namespace", namespace or self.namespace, "--ignore-not-found",
                     "--timeout=180s")

    def other_tag(self) -> str:
        """A second tag of the image that is installed; "": there is none."""
        return ""

    # --- what there is ---

    def items(self, kinds: str, *selection, namespace: str = "") -> list[dict]:
        printed = self.kubectl("get", kinds, *selection, "-o", "json", namespace=namespace)
        return json.loads(printed)["items"]

    def _watched(self, group: str, kind: str) -> list[dict]:
        """Those of the release, cheaply."""
        selector = SELECTOR.partition("=")[2].replace("=", "%3D")
        path = f"/{group}/namespaces/{self.namespace}/{kind}?labelSelector={selector}"
        return self.api.get(path)["items"]

    def nodes_ready(self) -> dict[str, bool]:
        return {item["metadata"]["name"]: holds(item, "Ready")
                for item in self.api.get("/api/v1/nodes")["items"]}

    def pods(self, *components: str) -> list[Pod]:
        """Those of the release, in the order of components and names."""
        order = components or COMPONENTS
        found = [Pod(item) for item in self._watched("api/v1", "pods")]
        return sorted((pod for pod in found if pod.component in order),
                      key=lambda pod: (order.index(pod.component), pod.name))

    def wanted(self) -> dict[str, int]:
        """How many pods each component shall have."""
        counts = dict.fromkeys(COMPONENTS, 0)
        for kind in ("statefulsets", "deployments"):
            for owner in self._watched("apis/apps/v1", kind):
                component = owner["metadata"]["labels"]["app.kubernetes.io/component"]
                counts[component] += owner["spec"]["replicas"]
        return counts

    def ready(self) -> dict[str, int]:
        counts = dict.fromkeys(COMPONENTS, 0)
        for pod in self.pods():
            counts[pod.component] += pod.ready
        return counts

    def wait_ready(self) -> float:
        """Until as many pods are ready as there shall be; how long it took, in seconds."""
        wanted = self.wanted()
        return self.wait(f"{sum(wanted.values())} ready pods", lambda: self.ready() == wanted)

    def wait(self, what: str, condition, timeout_s: float = READY_TIMEOUT_S) -> float:
        begun = time.monotonic()
        while not condition():
            if time.monotonic() > begun + timeout_s:
                raise ClusterError(f"{what}: not within {timeout_s:.0f} s", self.state())
            time.sleep(POLL_S)
        return time.monotonic() - begun

    def version(self) -> str:
        return self.api.get("/version")["gitVersion"]

    def installed_image(self) -> str:
        return self.pods(GATEWAY)[0].image

    def logs(self) -> str:
        """Of all pods that there are."""
        return self.kubectl("logs", SELECTOR, "--prefix", "--tail=1000", "--timestamps",
                            "--max-log-requests=20", check=False)

    def state(self) -> str:
        """For whoever has to find out what is wrong."""
        events = self.kubectl("get", "events", "--sort-by=.lastTimestamp",
                              "--field-selector=type!=Normal", check=False)
        pods = self.kubectl("get", "pods", "-o", "wide", check=False)
        return "\n".join([pods, *events.splitlines()[-15:]])
