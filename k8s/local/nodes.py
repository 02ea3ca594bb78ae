# SPDX-License-Identifier: Apache-2.0
"""A node: containerd, kubelet and kube-proxy in a network namespace of its own, with a cgroup and
volumes of its own."""

from __future__ import annotations

import json
import pathlib
import shutil
import time

import control
import network
import processes
from processes import inside, run
from settings import CONTROL_ADDRESS, RUN, VOLUMES, WORK, ClusterError, Node

CGROUPS = pathlib.Path("/sys/fs/cgroup")
PAUSE = "localhost/pause:1"
STORAGE_CLASS = "local"

CONTAINERD = """version = 2
root = "{folder}/containerd"
state = "{run}/{name}"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def _cni(node: Node) -> dict:
    # Each pod has a cable of its own to the node, so that also what stays on the node is routed: there
    # Services and policies take hold of it.
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [{
        "type": "ptp", "ipMasq": False,
        "ipam": {"type": "host-local", "dataDir": str(node.folder / "addresses"),
                 "ranges": [[{"subnet": node.pods}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}


def _kubelet(node: Node) -> dict:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": node.address, "healthzBindAddress": "127.0.0.1",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{node.containerd_socket}",
        "clusterDNS": [CONTROL_ADDRESS], "clusterDomain": "cluster.local",
        "resolvConf": str(WORK / "resolv.conf"),
        "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{node.cgroup}", "failCgroupV1": False,
        "enforceNodeAllocatable": [], "failSwapOn": False, "serializeImagePulls": False,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%",
                         "nodefs.inodesFree": "1%"},
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "5s", "nodeLeaseDurationSeconds": 20,
        "shutdownGracePeriod": "0s"}


def _proxy(node: Node) -> dict:
    return {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(control.kubeconfig("kube-proxy"))},
            "mode": "nftables", "hostnameOverride": node.name, "clusterCIDR": "10.88.0.0/16",
            "conntrack": {"maxPerCore": 0, "min": 0}, "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249"}


def _hierarchies() -> list[pathlib.Path]:
    """Those of cgroup v1, or the one of v2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def _make_cgroups(node: Node) -> None:
    for hierarchy in _hierarchies():
        folder = hierarchy / node.cgroup
        folder.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (folder / name).exists():
                (folder / name).write_text((hierarchy / name).read_text())
        # Of v1 and v2: what else runs on the machine gets what is left. Limits of pods hold all the same.
        for name, most in (("cpu.shares", "65536"), ("cpu.weight", "10000")):
            if (folder / name).exists():
                (folder / name).write_text(most)


def start(node: Node, programs: pathlib.Path, images: list[pathlib.Path]) -> None:
    node.folder.mkdir(parents=True, exist_ok=True)
    (node.folder / "cni").mkdir(exist_ok=True)
    (node.folder / "cni/10-pods.conflist").write_text(json.dumps(_cni(node)), encoding="utf-8")
    (node.folder / "containerd.toml").write_text(
        CONTAINERD.format(folder=node.folder, run=RUN, name=node.name, socket=node.containerd_socket,
                          pause=PAUSE), encoding="utf-8")
    for name, config in (("kubelet", _kubelet(node)), ("kube-proxy", _proxy(node))):
        (node.folder / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")
    _make_cgroups(node)
    processes.start(f"{node.name}-containerd", node.namespace, "containerd", "--config",
                    node.folder / "containerd.toml")
    processes.wait_for(f"containerd of {node.name}", lambda: _ctr(node, "namespaces", "list", check=False) != "", 30,
                       (f"{node.name}-containerd",))
    for image in images:
        load(node, image)
    processes.start(f"{node.name}-kubelet", node.namespace, programs / "kubelet",
                    "--config", node.folder / "kubelet.json",
                    "--kubeconfig", control.kubeconfig(node.name), "--root-dir", node.folder / "kubelet",
                    "--cert-dir", node.folder / "certificates", "--hostname-override", node.name,
                    "--node-ip", node.address)
    processes.start(f"{node.name}-kube-proxy", node.namespace, programs / "kube-proxy",
                    "--config", node.folder / "kube-proxy.json")


def _ctr(node: Node, *arguments, check: bool = True) -> str:
    return run("ctr", "--address", node.containerd_socket, "--namespace", "k8s.io", *arguments, check=check)


def load(node: Node, image: pathlib.Path) -> None:
    _ctr(node, "images", "import", "--all-platforms", image)


def tag(node: Node, name: str, other: str) -> None:
    """Gives an image of the node a second tag."""
    _ctr(node, "images", "tag", "--force", name, f"{name.rpartition(':')[0]}:{other}")


def volumes(nodes: list[Node]) -> list[dict]:
    """Volumes that are on one node, as disks are: a pod whose volume is elsewhere cannot start there."""
    made = [{"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
             "metadata": {"name": STORAGE_CLASS,
                          "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
             "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}]
    for node in nodes:
        for number in range(VOLUMES):
            folder = node.folder / "volumes" / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            made.append({
                "apiVersion": "v1", "kind": "PersistentVolume",
                "metadata": {"name": f"{node.name}-{number}"},
                "spec": {"capacity": {"storage": "200Gi"}, "accessModes": ["ReadWriteOnce"],
                         "persistentVolumeReclaimPolicy": "Retain", "storageClassName": STORAGE_CLASS,
                         "local": {"path": str(folder)},
                         "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                             {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}]}]}}}})
    return made


def empty_volumes(node: Node) -> None:
    """Nothing may use them."""
    for folder in (node.folder / "volumes").iterdir():
        shutil.rmtree(folder)
        folder.mkdir()


def lose(node: Node) -> None:
    """Ends all that runs on the node, unasked, and removes what it has stored; start() makes a new one."""
    processes.end([f"{node.name}-{program}" for program in ("kubelet", "kube-proxy", "containerd")], kill=True)
    _end_in_cgroups([node])
    _unmount([node.folder, RUN / node.name])
    shutil.rmtree(node.folder)
    shutil.rmtree(RUN / node.name)
    for number in range(VOLUMES):
        (node.folder / "volumes" / str(number)).mkdir(parents=True)


def stop(nodes: list[Node]) -> None:
    """Ends the kubelets, then what runs in pods, then the containerds; frees what they hold."""
    for program in ("kubelet", "kube-proxy"):
        processes.end([name for name in processes.names() if name.endswith(f"-{program}")])
    for node in nodes:
        if not processes.alive(f"{node.name}-containerd"):
            continue
        for task in _ctr(node, "tasks", "list", "--quiet", check=False).split():
            _ctr(node, "tasks", "kill", "--signal", "SIGKILL", task, check=False)
        for task in _ctr(node, "tasks", "list", "--quiet", check=False).split():
            _ctr(node, "tasks", "delete", "--force", task, check=False)
    processes.end([name for name in processes.names() if name.endswith("-containerd")])
    _end_in_cgroups(nodes)
    _unmount([WORK, RUN])
    network.remove()
    for node in nodes:
        for hierarchy in _hierarchies():
            _remove_cgroup(hierarchy / node.cgroup)
    shutil.rmtree(RUN, ignore_errors=True)


def _pids(nodes: list[Node]) -> set[int]:
    """Processes in the nodes' cgroups, and containerd's helpers, which are in none."""
    found = set()
    for node in nodes:
        for hierarchy in _hierarchies():
            for file in (hierarchy / node.cgroup).rglob("cgroup.procs"):
                found |= {int(pid) for pid in file.read_text().split()}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words and words[0].endswith(b"containerd-shim-runc-v2") and \
                any(str(node.containerd_socket).encode() in words for node in nodes):
            found.add(int(path.parts[2]))
    return found


def _end_in_cgroups(nodes: list[Node]) -> None:
    deadline = time.monotonic() + 20
    while pids := _pids(nodes):
        if time.monotonic() > deadline:
            raise ClusterError(f"processes of pods do not end: {sorted(pids)}")
        for pid in pids:
            run("kill", "-KILL", pid, check=False)
        time.sleep(0.2)


def _unmount(folders: list[pathlib.Path]) -> None:
    """What is mounted under these, the deepest first."""
    mounts = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    ours = [path for path in mounts if path.startswith(tuple(f"{folder}/" for folder in folders))]
    for path in sorted(ours, key=len, reverse=True):
        run("umount", "--lazy", path, check=False)


def _remove_cgroup(folder: pathlib.Path) -> None:
    if not folder.exists():
        return
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        path.rmdir()
    folder.rmdir()
