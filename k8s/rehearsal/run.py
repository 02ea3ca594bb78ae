#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev kubernetes test`: rehearses what happens to a cluster, under traffic of which every answer
is compared. Without --kubeconfig on the cluster of ./dev kubernetes up, which is started where none
runs, and then ended; what is in its namespace `allezon` is deleted. On any other cluster all is in
namespaces `allezon-rehearsal…`, and its nodes are left alone. The result goes to
build/rehearsal.md."""

from __future__ import annotations

import argparse
import datetime
import fcntl
import pathlib
import signal
import sys
import time

import cluster
import control_plane
import first
import memory
import nodes_away
import record
import refusals
import rendered
import replacing
import scaling
from cluster import ROOT, ClusterError
from stage import NGINX, SERVICE, WAYS, Options, Rehearsal, perform

RESULT = ROOT / "build/rehearsal.md"
REHEARSALS = {
    "dry-run": Rehearsal("every rendering is taken; kubectl apply, and again without a change",
                         rendered.dry_run, load=None, ways=("",), installed=False),
    "install": Rehearsal("helm install, helm test", first.install_and_test, load=None, ways=("",),
                         installed=False),
    "1": Rehearsal("every pod deleted, each ready before the next", replacing.every_pod),
    "2": Rehearsal("rollout restart; helm upgrade to another tag, and rollback",
                   replacing.restart_and_upgrade),
    "3": Rehearsal("kubectl drain of each node in turn", nodes_away.drain_each, needs=("nodes",)),
    "4": Rehearsal(f"a node cut from the network for {nodes_away.CUT_S} s, and back",
                   nodes_away.cut_off, needs=("nodes",), enters=nodes_away.gateways_that_live),
    "5": Rehearsal("a node gone for good with its volumes", nodes_away.lost_for_good,
                   needs=("nodes",), enters=nodes_away.gateways_that_live),
    "6": Rehearsal(f"gateways {scaling.FEW} → {scaling.MANY} → {scaling.FEW} by the autoscaler",
                   scaling.up_and_down, values=scaling.VALUES, needs=("metrics",),
                   load=scaling.QUIET),
    "7": Rehearsal(f"the control plane down for {control_plane.DOWN_S} s", control_plane.down,
                   needs=("control plane",)),
    "8-small": Rehearsal("memory at the limits of values-local.yaml", memory.at_the_limit, load=None,
                         ways=(SERVICE,)),
    "8-production": Rehearsal("memory at the limits of values-production.yaml",
                              memory.at_the_limit, values=memory.PRODUCTION, load=None,
                              ways=(SERVICE,)),
    "9": Rehearsal("bad values: a clear message, and what ran goes on", refusals.bad_values),
}


def chosen(only: str) -> dict[str, Rehearsal]:
    """Those that are named; 8 is both of its kind. A ClusterError where there is no such one."""
    names = only.split(",") if only else list(REHEARSALS)
    for name in names:
        if not any(name in (key, key.partition("-")[0]) for key in REHEARSALS):
            raise ClusterError(f"--only: there is no rehearsal '{name}'",
                               f"there are {', '.join(REHEARSALS)}")
    return {key: rehearsal for key, rehearsal in REHEARSALS.items()
            if key in names or key.partition("-")[0] in names}


def ways_of(rehearsal: Rehearsal, through: tuple[str, ...], offers: frozenset[str]) -> list[str]:
    """The ways that it is to go on a cluster that offers so much; none where it needs more."""
    if any(need not in offers for need in rehearsal.needs):
        return []
    possible = {"", SERVICE, *({NGINX} & offers)}
    return [way for way in rehearsal.ways if way in possible and way in ("", *through)]


def the_cluster(options: argparse.Namespace) -> tuple[cluster.Cluster, float]:
    """The cluster, and how long it took to start, where it was started here."""
    if options.kubeconfig:
        import foreign_cluster
        return foreign_cluster.ForeignCluster(options.kubeconfig, options.image,
                                              options.other_tag), 0.0
    import kubernetes
    import local_cluster
    took = 0.0
    if not kubernetes.STATE.exists():
        took = kubernetes.up(argparse.Namespace(nodes=3))
    return local_cluster.LocalCluster(), took


def head(where: cluster.Cluster) -> list[str]:
    now = datetime.datetime.now(datetime.timezone.utc)
    kind = "./dev kubernetes, all nodes on one machine" if where.local else "a cluster elsewhere"
    return [f"{now:%Y-%m-%d %H:%M} UTC, commit {record.commit()}, Kubernetes {where.version()} "
            f"({kind}), {record.machine()}."]


def rehearse(where: cluster.Cluster, options: argparse.Namespace,
             up_s: float) -> list[record.Result]:
    through = tuple(options.through.split(","))
    settings = Options(options.minutes, options.timeout_ms, up_s)
    results: list[record.Result] = []
    for key, rehearsal in chosen(options.only).items():
        ways = ways_of(rehearsal, through, where.offers)
        for way in (way for way in rehearsal.ways if way in ("", *through) and way not in ways):
            print(f"left out: {key}{f' ({way})' if way else ''}: {rehearsal.what}", flush=True)
        for way in ways:
            results.append(perform(where, key, rehearsal, way, settings))
            RESULT.write_text(record.table(results, options.timeout_ms, head(where)),
                              encoding="utf-8")
            if not results[-1].ok:
                kept = RESULT.with_name(f"rehearsal-{key}-{way or 'alone'}.log")
                kept.write_text(f"{where.state()}\n{where.logs()}", encoding="utf-8")
                print(f"what its pods have logged is in {kept.relative_to(ROOT)}", flush=True)
                where.erase()
    if not where.local and not options.keep:
        where.erase()
    return results


def take(lock) -> None:
    """Until the program ends: two would break each other's clusters."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ClusterError("another ./dev kubernetes test is running") from None


def arguments() -> argparse.Namespace:
    lines = "\n".join(f"  {key:<13}{item.what}" for key, item in REHEARSALS.items())
    parser = argparse.ArgumentParser(
        prog="./dev kubernetes test", allow_abbrev=False, description=f"{__doc__}\n\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="1,3,…", help="these alone")
    parser.add_argument("--through", default=",".join(WAYS),
                        help="service, nginx or both (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=15,
                        help="of memory at the limit (default %(default)g)")
    parser.add_argument("--timeout_ms", type=int, default=200,
                        help="of tags and profiles (default %(default)s); more on a busy machine")
    parser.add_argument("--kubeconfig", type=pathlib.Path, help="a cluster elsewhere")
    parser.add_argument("--image", default="", metavar="NAME:TAG", help="of allezon, there")
    parser.add_argument("--other-tag", default="", help="of the same image, to upgrade to, there")
    parser.add_argument("--keep", action="store_true", help="leave running what was started")
    options = parser.parse_args()
    if not set(options.through.split(",")) <= set(WAYS):
        parser.error(f"--through: {' or '.join(WAYS)}")
    if (options.image or options.other_tag) and not options.kubeconfig:
        parser.error("--image and --other-tag are for a cluster of --kubeconfig")
    if not 0 < options.minutes <= 24 * 60:
        parser.error("--minutes: above 0, up to a day")
    if not 1 <= options.timeout_ms <= 60_000:
        parser.error("--timeout_ms: 1 to 60000")
    return options


def main() -> int:
    options, up_s, where, begun = arguments(), 0.0, None, time.monotonic()
    # What was cut and ended is put right on any way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    RESULT.parent.mkdir(exist_ok=True)
    lock = RESULT.with_suffix(".lock").open("w", encoding="utf-8")
    try:
        chosen(options.only)
        take(lock)
        where, up_s = the_cluster(options)
        results = rehearse(where, options, up_s)
    except ClusterError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        for line in error.args[1:]:
            print(f"       {line}", file=sys.stderr)
        return 1
    finally:
        if where:
            where.close()
        if up_s and not options.keep:
            import kubernetes
            kubernetes.down()
    if not results:
        print("error: nothing of that is possible on this cluster", file=sys.stderr)
        return 1
    print(RESULT.read_text(encoding="utf-8"))
    held, minutes = sum(result.ok for result in results), (time.monotonic() - begun) / 60
    print(f"{held} of {len(results)} held, in {minutes:.0f} minutes; {RESULT.relative_to(ROOT)}")
    return 0 if held == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
