# SPDX-License-Identifier: Apache-2.0
"""Clusters of allezon on this machine, each of one case, on an empty folder that goes with it."""

import contextlib
import pathlib
import shutil
import tempfile
import time
import urllib.request

from processes import DIE_WITH_PARENT, BenchError, local_cluster, program
from settings import SERVICES as ALL_SERVICES
from settings import ClusterError, make_settings

SERVICES = ("profile", "aggregate")
READY_TIMEOUT_S = 300
# Until every replica holds what was acknowledged: the slowest one may have been left behind by the length of a lane.
EQUAL_TIMEOUT_S = 120


class BenchCluster(local_cluster.Cluster):
    def __init__(self, folder, *, rf, nodes, node_args):
        settings = make_settings(folder, profiles=nodes, aggregates=nodes, rf=rf)
        ids = [id_ for service in ALL_SERVICES for id_ in settings.ids(service)]
        super().__init__(folder, program("allezon-gateway").parent, settings, log_level="warn",
                         extra_args={service: node_args for service in SERVICES},
                         prefixes={id_: DIE_WITH_PARENT for id_ in ids})

    def launch(self):
        self.start()
        self.wait_serving()

    def wait_serving(self):
        """Until the gateway is ready, and every node serves every shard that it holds."""
        self.wait_ready(READY_TIMEOUT_S)
        held = self.settings.shards * self.settings.rf

        def serving(service):
            return sum(self.metric(entry, "allezon_replica_shards_serving") for entry in self.entries[service])

        wait_until(lambda: all(serving(service) == held for service in SERVICES), READY_TIMEOUT_S,
                   lambda: f"not all shards serve: {[serving(service) for service in SERVICES]} of {held}")

    @property
    def http(self):
        return self.entries["gateways"][0]["http"]

    def addresses(self, service):
        return [entry["grpc"] for entry in self.entries[service]]

    def roles(self):
        """The processes by role, for measure.measure()."""
        return {name: [entry["pid"] for entry in self.entries[service]]
                for name, service in (("gateway", "gateways"), ("profile", "profile"), ("aggregate", "aggregate"))}

    def metric(self, entry, name):
        """The sum of a metric's samples."""
        with urllib.request.urlopen(f"http://{entry['metrics']}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)

    def events(self, service):
        """Tags that the service holds, once every replica holds them."""
        return sum(self.metric(entry, "allezon_store_events") for entry in self.entries[service]) / self.settings.rf

    def check_events(self, acknowledged, uncertain, services=SERVICES):
        """Waits until all replicas hold what was acknowledged, and no more than was sent. BenchError where they do not:
        then answers did not mean what they said."""
        for service in services:
            wait_until(lambda: acknowledged <= self.events(service) <= acknowledged + uncertain, EQUAL_TIMEOUT_S,
                       lambda: f"{acknowledged} tags were acknowledged, {uncertain} more may be stored, but the "
                       f"{service} nodes hold {self.events(service)}")


def wait_until(condition, timeout_s, complaint):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(complaint())
        time.sleep(0.2)


@contextlib.contextmanager
def cluster(data_dir, *, rf, nodes=None, wal="sync", **node_flags):
    """A running one, which is stopped and removed at the end. As many nodes as replicas unless it is said; `node_flags` are
    more flags of the nodes."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cluster-", dir=data_dir))
    try:
        bench_cluster = BenchCluster(folder, rf=rf, nodes=nodes or rf,
                                     node_args=[f"--{name}={value}" for name, value in {"wal": wal, **node_flags}.items()])
        try:
            bench_cluster.launch()
            yield bench_cluster
        except ClusterError as error:
            raise BenchError(str(error)) from error
        finally:
            bench_cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
