# SPDX-License-Identifier: Apache-2.0
"""The control plane away: what serves, goes on serving."""

from __future__ import annotations

import time

from stage import Stage

DOWN_S = 60


def down(stage: Stage) -> None:
    where, wanted = stage.cluster, stage.cluster.wanted()
    before = {pod.uid for pod in where.pods()}
    where.end_control_plane()
    stage.say("etcd, apiserver, controller manager and scheduler are killed")
    try:
        time.sleep(DOWN_S)
    finally:
        where.start_control_plane()
    seconds = where.wait("nodes and pods ready", lambda: all(where.nodes_ready().values()) and
                         where.ready() == wanted)
    stage.note(f"the control plane was away for {DOWN_S} s; nodes and pods were ready "
               f"{seconds:.0f} s after it was back")
    stage.check({pod.uid for pod in where.pods()} == before, "pods were replaced")
