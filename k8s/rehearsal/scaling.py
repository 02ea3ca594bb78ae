# SPDX-License-Identifier: Apache-2.0
"""Gateways that an autoscaler adds and takes away."""

from __future__ import annotations

from cluster import GATEWAY, SELECTOR
from stage import Stage

FEW, MANY = 2, 5
# Always, and beside it until there are many. Connections cost a gateway something, also idle ones.
QUIET, BUSY = {"rate": 50, "connections": 8}, {"rate": 450, "connections": 32}
UP_TIMEOUT_S, DOWN_TIMEOUT_S = 240, 420
VALUES = {
    "gateway.autoscaling.enabled": "true", "gateway.autoscaling.minReplicas": FEW,
    "gateway.autoscaling.maxReplicas": MANY, "gateway.autoscaling.scaleDownAfterSeconds": 30,
    # So that what this machine can send is much for two gateways, and little for five.
    "gateway.autoscaling.targetCPUPercent": 90, "gateway.resources.requests.cpu": "40m",
}


def up_and_down(stage: Stage) -> None:
    where, busy = stage.cluster, stage.load(**BUSY)
    seconds = where.wait(f"{MANY} gateways", lambda: count(stage) == MANY, UP_TIMEOUT_S)
    stage.note(f"{FEW} to {MANY} gateways within {seconds:.0f} s of "
               f"{BUSY['rate'] + QUIET['rate']} tags/s; then each takes {usage(stage)} % of the CPU "
               "that it asks for")
    stage.end_load(busy)
    seconds = where.wait(f"{FEW} gateways", lambda: count(stage) == FEW, DOWN_TIMEOUT_S)
    stage.note(f"back to {FEW} {seconds:.0f} s after only {QUIET['rate']} tags/s were left")


def count(stage: Stage) -> int:
    """How many there are, all of them ready; 0 while one comes or goes."""
    pods = stage.cluster.pods(GATEWAY)
    return len(pods) if all(pod.ready for pod in pods) else 0


def usage(stage: Stage) -> str:
    (scaler,) = stage.cluster.items("horizontalpodautoscalers", SELECTOR)
    (metric,) = scaler["status"].get("currentMetrics") or [{}]
    return str(metric.get("resource", {}).get("current", {}).get("averageUtilization", "?"))
