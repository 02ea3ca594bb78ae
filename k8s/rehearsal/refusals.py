# SPDX-License-Identifier: Apache-2.0
"""Values that are wrong: each is answered with a clear message, and what ran goes on."""

from __future__ import annotations

import time

from cluster import CHART, COMPONENTS, RELEASE
from stage import Stage

OTHER_NAMESPACE = "allezon-rehearsal-other"
# For what never becomes ready; long enough for everybody to have tried.
WAIT_S = 30
NO_ZONE = {"cluster.zones": "{a,b,c}"}
NO_CLASS = {"profile.storage.storageClass": "missing"}


def bad_values(stage: Stage) -> None:
    before = {pod.uid for pod in stage.cluster.pods() if not pod.ending}
    upgrade, install = ("upgrade", RELEASE), ("install", RELEASE)
    refused(stage, upgrade, {"cluster.rf": 2}, "cluster.rf cannot change")
    refused(stage, upgrade, {"cluster.rf": 5}, "needs as many nodes")
    refused(stage, upgrade, NO_ZONE, "cannot change once there is data")
    refused(stage, upgrade, NO_CLASS, "storageClass")
    refused(stage, install, {}, "cannot re-use a name")
    refused(stage, ("install", "second"), {"fullnameOverride": RELEASE}, "cannot be imported")
    after = {pod.uid for pod in stage.cluster.pods() if not pod.ending}
    stage.check(after == before, "what was refused has replaced pods")
    missing_image(stage)
    never_ready(stage, "a zone that is missing", NO_ZONE, unscheduled, "affinity")
    never_ready(stage, "a claim that cannot be bound", NO_CLASS, warnings, '"missing" not found')


def refused(stage: Stage, command: tuple[str, str], values: dict, said: str) -> None:
    where = stage.cluster
    flags = where.values(stage.rehearsal.values | values)
    done, text = where.helm(*command, CHART, *flags, "--timeout=60s")
    lines = [line for line in text.splitlines() if said in line]
    what = " ".join(["helm", *command, *(f"--set {key}={value}" for key, value in values.items())])
    stage.check(not done and bool(lines), f"{what}: '{said}' is not in: {text}")
    if lines:
        stage.note(f"{what}: {lines[0].split('): ')[-1].removeprefix('Error: ')}")


def missing_image(stage: Stage) -> None:
    """What ran goes on, but for one pod of each component; a rollback brings that back too."""
    where, wanted = stage.cluster, stage.cluster.wanted()
    flags = where.values(stage.rehearsal.values | {"image.tag": "missing"})
    done, _ = where.helm("upgrade", RELEASE, CHART, *flags, "--wait", f"--timeout={WAIT_S}s")
    stage.check(not done, "an upgrade to an image that does not exist succeeded")
    waiting = [container["state"]["waiting"] for pod in where.pods() for container in pod.containers
               if "waiting" in container["state"]]
    clear = [f"{state['reason']}: {state['message']}" for state in waiting
             if ":missing" in state.get("message", "")]
    stage.check(bool(clear), f"no pod says which image is missing: {waiting}")
    if clear:
        stage.note(f"an image that does not exist: {clear[0]}")
    ready = where.ready()
    for component in COMPONENTS:
        stage.check(ready[component] >= wanted[component] - 1,
                    f"with a missing image {ready[component]} of {wanted[component]} {component} "
                    "pods were ready")
    begun = time.monotonic()
    done, text = where.helm("rollback", RELEASE, "--wait", "--timeout=180s")
    stage.check(done, f"rollback from a missing image: {text}")
    where.wait_ready()
    stage.note(f"after the rollback all were ready within {time.monotonic() - begun:.0f} s")


def never_ready(stage: Stage, what: str, values: dict, complaints, said: str) -> None:
    """An installation of its own, beside what runs."""
    where = stage.cluster
    where.make_namespace(OTHER_NAMESPACE)
    try:
        done, _ = where.helm("install", "other", CHART, *where.values(values, outside=False),
                             "--wait", f"--timeout={WAIT_S}s", namespace=OTHER_NAMESPACE)
        stage.check(not done, f"{what}: the installation succeeded")
        found = complaints(stage)
        clear = [text for text in found if said in text]
        stage.check(bool(clear), f"{what}: nothing says '{said}': {found}")
        if clear:
            stage.note(f"{what}: {clear[0]}")
    finally:
        where.kubectl("delete", "namespace", OTHER_NAMESPACE, "--timeout=120s")


def unscheduled(stage: Stage) -> list[str]:
    return [condition.get("message", "")
            for item in stage.cluster.items("pods", namespace=OTHER_NAMESPACE)
            for condition in item["status"].get("conditions", [])
            if condition["type"] == "PodScheduled" and condition["status"] == "False"]


def warnings(stage: Stage) -> list[str]:
    return [item.get("message", "")
            for item in stage.cluster.items("events", namespace=OTHER_NAMESPACE)
            if item["type"] == "Warning"]
