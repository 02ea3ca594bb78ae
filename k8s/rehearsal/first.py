# SPDX-License-Identifier: Apache-2.0
"""An installation on an empty cluster."""

from __future__ import annotations

from cluster import RELEASE, ClusterError
from stage import Stage

# With the start of the local cluster, its programs being built.
UP_AND_READY_MAX_S = 60


def install_and_test(stage: Stage) -> None:
    where, up_s = stage.cluster, stage.options.up_s
    where.erase()
    seconds = where.install(stage.rehearsal.values)
    stage.note(f"helm install: {sum(where.ready().values())} pods ready after {seconds:.0f} s")
    if up_s:
        stage.note(f"./dev kubernetes up, cached: {up_s:.0f} s; together {up_s + seconds:.0f} s")
        stage.check(up_s + seconds <= UP_AND_READY_MAX_S,
                    f"from up to ready pods it took more than {UP_AND_READY_MAX_S} s")
    done, said = where.helm("test", RELEASE, "--logs", "--timeout", "180s")
    if not done:
        raise ClusterError(f"helm test: {said}", where.state())
    last = [line for line in said.splitlines() if line.startswith("OK:")]
    stage.note(f"helm test: {last[0] if last else 'succeeded'}")
