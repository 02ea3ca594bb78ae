# SPDX-License-Identifier: Apache-2.0
"""metrics-server, so that autoscalers work: it asks the kubelets, and the apiserver passes questions on
to it. It runs beside the control plane, and the cluster knows it as a Service without pods."""

from __future__ import annotations

import pathlib

import control
import processes
from processes import run
from settings import CONTROL, CONTROL_ADDRESS, WORK

NAME = "metrics-server"
PORT = 4443
RESOLUTION_S = 15
FOLDER = WORK / "metrics"
# How the apiserver shows who it is, and whom it asks for.
PROXY_CA, PROXY = FOLDER / "proxy-ca", FOLDER / "proxy"


def apiserver_flags() -> list[str]:
    """Of an apiserver that passes on to others; makes the certificates that it does so with."""
    FOLDER.mkdir(parents=True)
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=proxy-ca",
        "-keyout", f"{PROXY_CA}.key", "-out", f"{PROXY_CA}.crt")
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=proxy", "-keyout", f"{PROXY}.key",
        "-out", f"{PROXY}.csr")
    run("openssl", "x509", "-req", "-days", "30", "-in", f"{PROXY}.csr", "-CA", f"{PROXY_CA}.crt",
        "-CAkey", f"{PROXY_CA}.key", "-CAcreateserial", "-out", f"{PROXY}.crt")
    return [f"--proxy-client-cert-file={PROXY}.crt", f"--proxy-client-key-file={PROXY}.key",
            f"--requestheader-client-ca-file={PROXY_CA}.crt", "--requestheader-allowed-names=proxy",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            # No kube-proxy is where the apiserver is: it goes to addresses, not to Services.
            "--enable-aggregator-routing=true"]


def start(programs: pathlib.Path) -> None:
    processes.start(NAME, CONTROL, programs / NAME,
                    f"--bind-address={CONTROL_ADDRESS}", f"--secure-port={PORT}",
                    f"--cert-dir={FOLDER / 'certificates'}", f"--kubeconfig={control.ADMIN}",
                    f"--authentication-kubeconfig={control.ADMIN}", f"--authorization-kubeconfig={control.ADMIN}",
                    f"--metric-resolution={RESOLUTION_S}s", "--kubelet-insecure-tls",
                    "--kubelet-request-timeout=5s", "--kubelet-preferred-address-types=InternalIP")
    control.apply(_objects())


def _objects() -> list[dict]:
    named = {"name": NAME, "namespace": "kube-system"}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": named,
         "spec": {"ports": [{"name": "https", "port": 443, "targetPort": PORT}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
         "metadata": {**named, "labels": {"kubernetes.io/service-name": NAME}},
         "ports": [{"name": "https", "port": PORT}],
         "endpoints": [{"addresses": [CONTROL_ADDRESS], "conditions": {"ready": True}}]},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
         "metadata": {"name": "v1beta1.metrics.k8s.io"},
         "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "insecureSkipTLSVerify": True,
                  "groupPriorityMinimum": 100, "versionPriority": 100,
                  "service": {**named, "port": 443}}}]
