# SPDX-License-Identifier: Apache-2.0
"""What is rendered from the chart, against a real apiserver."""

from __future__ import annotations

import subprocess
import sys

from cluster import COMPONENTS, ROOT
from stage import Stage

sys.path.append(str(ROOT / "tests/k8s"))
import chart  # noqa: E402
import yaml  # noqa: E402

PLAIN = "allezon-rehearsal-plain"
MANIFESTS = ROOT / "k8s/allezon.yaml"
ACCOUNTS = ("allezon", "tags", "other")  # of the variants
READY_TIMEOUT_S = 120
# Those of other projects, and what an apiserver that knows them calls them.
THEIRS = {"PodMonitor": "podmonitors.monitoring.coreos.com",
          "PrometheusRule": "prometheusrules.monitoring.coreos.com",
          "HTTPRoute": "httproutes.gateway.networking.k8s.io"}
OURS = ("services", "statefulsets", "deployments", "configmaps", "serviceaccounts",
        "networkpolicies", "poddisruptionbudgets")


def dry_run(stage: Stage) -> None:
    """Each rendering that the tests of the chart make is taken, without a warning."""
    where = stage.cluster
    where.erase()
    unknown = define(stage)
    where.make_namespace(PLAIN)
    # The pod of helm test comes when those are there that it runs as.
    accounts = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
                for name in ACCOUNTS]
    where.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(accounts), namespace=PLAIN)
    taken = 0
    renderings = {**{name: (None, file) for name, file in chart.VALUES_FILES.items()},
                  **{name: (values, None) for name, values in chart.VARIANTS.items()}}
    for name, (values, file) in renderings.items():
        documents = [item for item in chart.render(values, file).all if item["kind"] not in unknown]
        count, said = apply_dry(stage, documents)
        stage.check(count == len(documents) and not said,
                    f"{name}: {count} of {len(documents)} were taken: {said}")
        taken += count
    stage.note(f"a server-side dry run took {taken} objects of {len(renderings)} renderings")
    where.kubectl("delete", "namespace", PLAIN, "--timeout=60s")
    plain_manifests(stage)


def define(stage: Stage) -> set[str]:
    """Tells the local apiserver what others define; returns the kinds that stay unknown."""
    where = stage.cluster
    if where.local:
        import definitions  # of ./dev kubernetes
        files = [f"--filename={path}" for path in definitions.files()]
        where.kubectl("apply", "--server-side", *files)
        where.kubectl("wait", "--for=condition=Established", "--timeout=30s", *files)
    known = set(where.kubectl("api-resources", "--output=name", "--no-headers").split())
    unknown = {kind for kind, name in THEIRS.items() if name not in known}
    if unknown:
        stage.note(f"left out, since this cluster has no such kinds: {', '.join(sorted(unknown))}")
    return unknown


def apply_dry(stage: Stage, documents: list[dict]) -> tuple[int, str]:
    """How many objects were taken, and what was said besides."""
    command = stage.cluster.command("kubectl", "-n", PLAIN, "apply", "--dry-run=server", "-f", "-")
    result = subprocess.run(command, input=yaml.safe_dump_all(documents), capture_output=True,
                            text=True, check=False)
    return result.stdout.count("(server dry run)"), result.stderr.strip()


def plain_manifests(stage: Stage) -> None:
    where = stage.cluster
    where.make_namespace(PLAIN)
    try:
        where.kubectl("apply", "-f", MANIFESTS, namespace=PLAIN)
        where.kubectl("diff", "-f", MANIFESTS, namespace=PLAIN)  # fails where there is one
        before = specs(stage)
        # Of budgets and claims it says `configured` each time, since it sends lists as a whole.
        where.kubectl("apply", "-f", MANIFESTS, namespace=PLAIN)
        changed = sorted(before.items() ^ specs(stage).items())
        stage.check(bool(before) and not changed, f"a second kubectl apply changed {changed}")
        stage.note(f"kubectl apply of k8s/allezon.yaml, again: {len(before)} objects, none changed")
        if where.local:
            where.kubectl("wait", "pods", "--for=condition=Ready", f"--timeout={READY_TIMEOUT_S}s",
                          f"--selector=app.kubernetes.io/component in ({','.join(COMPONENTS)})",
                          namespace=PLAIN)
            stage.note("its pods were ready, with default values")
    finally:
        where.erase(PLAIN)


def specs(stage: Stage) -> dict[str, str]:
    """All objects but for their status and who has changed what when."""
    found = {}
    for item in stage.cluster.items(",".join(OURS), "--selector=app.kubernetes.io/part-of=allezon",
                                    namespace=PLAIN):
        metadata = item.pop("metadata")
        item.pop("status", None)
        kept = {key: metadata.get(key) for key in ("labels", "annotations", "generation")}
        found[f"{item['kind']} {metadata['name']}"] = repr((item, kept))
    return found
