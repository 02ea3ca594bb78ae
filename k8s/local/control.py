# SPDX-License-Identifier: Apache-2.0
"""The control plane: etcd, apiserver, controller manager, scheduler and DNS."""

from __future__ import annotations

import json
import pathlib
import secrets

import processes
from apiserver import Apiserver
from processes import run
from settings import API_PORT, CONTROL, CONTROL_ADDRESS, RUN, SERVICE_RANGE, WORK, Node

SERVER = f"https://{CONTROL_ADDRESS}:{API_PORT}"
PROXY = "kubectl-proxy"
SOCKET = RUN / "apiserver.sock"
PROCESSES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")
COREFILE = """cluster.local:53 10.in-addr.arpa:53 {
    errors
    bind %(address)s
    kubernetes cluster.local 10.in-addr.arpa {
        kubeconfig %(kubeconfig)s
        ttl 5
    }
}
.:53 {
    bind %(address)s
    template ANY ANY {
        rcode NXDOMAIN
    }
}
"""


def kubeconfig(user: str) -> pathlib.Path:
    return WORK / "users" / f"{user}.kubeconfig"


ADMIN = kubeconfig("admin")


def make_users(nodes: list[Node]) -> None:
    """Tokens are the shortest way to users; the network that they go over is nobody else's."""
    folder = WORK / "users"
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    users = {"admin": ("admin", "system:masters"),
             **{name: (f"system:{name}", "") for name in (
                 "kube-controller-manager", "kube-scheduler", "kube-proxy")},
             **{node.name: (f"system:node:{node.name}", "system:nodes") for node in nodes}}
    lines = []
    for number, (user, (name, group)) in enumerate(users.items()):
        token = secrets.token_hex(16)
        lines.append(f'{token},{name},{number},"{group}"' if group else f"{token},{name},{number}")
        kubeconfig(user).write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "local",
            "clusters": [{"name": "local", "cluster": {"server": SERVER, "insecure-skip-tls-verify": True}}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": user}}],
            "users": [{"name": user, "user": {"token": token}}]}), encoding="utf-8")
    (folder / "tokens.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run("openssl", "genrsa", "-out", folder / "accounts.key", "2048")


def start(programs: pathlib.Path, flags: list[str]) -> None:
    """`flags`: more of the apiserver's."""
    users, data = WORK / "users", WORK / "control"
    data.mkdir(parents=True)
    (data / "Corefile").write_text(COREFILE % {"address": CONTROL_ADDRESS, "kubeconfig": ADMIN},
                                   encoding="utf-8")
    processes.start("etcd", CONTROL, programs / "etcd", "--data-dir", data / "etcd",
                    "--unsafe-no-fsync", "--log-level", "warn")
    processes.start(
        "kube-apiserver", CONTROL, programs / "kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379", f"--advertise-address={CONTROL_ADDRESS}",
        f"--bind-address={CONTROL_ADDRESS}", f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={SERVICE_RANGE}", f"--cert-dir={data / 'certificates'}",
        f"--token-auth-file={users / 'tokens.csv'}", "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={users / 'accounts.key'}",
        f"--service-account-signing-key-file={users / 'accounts.key'}",
        "--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP", *flags)
    processes.wait_for("the apiserver", ready, 90, ("etcd", "kube-apiserver"))
    processes.start(
        "kube-controller-manager", CONTROL, programs / "kube-controller-manager",
        f"--kubeconfig={kubeconfig('kube-controller-manager')}", "--use-service-account-credentials",
        f"--service-account-private-key-file={users / 'accounts.key'}",
        f"--cert-dir={data / 'controller-certificates'}",
        "--horizontal-pod-autoscaler-sync-period=2s", "--leader-elect=false")
    processes.start("kube-scheduler", CONTROL, programs / "kube-scheduler",
                    f"--kubeconfig={kubeconfig('kube-scheduler')}", "--leader-elect=false",
                    f"--cert-dir={data / 'scheduler-certificates'}")
    processes.start("coredns", CONTROL, programs / "coredns", "-conf", data / "Corefile")
    processes.start(PROXY, CONTROL, WORK.parent / "tools/kubectl", "--kubeconfig", ADMIN, "proxy",
                    f"--unix-socket={SOCKET}")
    processes.wait_for("kubectl proxy", SOCKET.exists, 20, (PROXY,))


def kubectl(*arguments, text: str | None = None, check: bool = True) -> str:
    return run(*processes.inside(CONTROL), WORK.parent / "tools/kubectl", "--kubeconfig", ADMIN,
               *arguments, text=text, check=check)


def ready() -> bool:
    return kubectl("get", "--raw=/readyz", "--request-timeout=2s", check=False) == "ok"


def api() -> Apiserver:
    """For all who look often."""
    return Apiserver(SOCKET)


def apply(objects: list[dict]) -> None:
    kubectl("apply", "--server-side", "-f", "-",
            text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
