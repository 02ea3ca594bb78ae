# SPDX-License-Identifier: Apache-2.0
"""Definitions of other projects' kinds that the chart can make objects of, from those projects' Go
modules, as programs/crds pins them."""

from __future__ import annotations

import json
import pathlib
import subprocess

import programs
from settings import ClusterError

MODULE = programs.SOURCES / "crds"
FILES = {
    "github.com/prometheus-operator/prometheus-operator": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
    "sigs.k8s.io/gateway-api": ("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",),
}


def versions(text: str) -> dict[str, str]:
    """What a go.mod requires."""
    pairs = (line.split() for line in text.splitlines())
    return {words[0]: words[1] for words in pairs if len(words) == 2 and words[0] in FILES}


def files() -> list[pathlib.Path]:
    """Fetches what is not in Go's cache; Go compares it with go.sum."""
    pinned = versions((MODULE / "go.mod").read_text(encoding="utf-8"))
    found = []
    for name, chosen in FILES.items():
        result = subprocess.run(
            (programs.go(), "mod", "download", "-json", f"{name}@{pinned[name]}"), cwd=MODULE,
            env=programs.environment(), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise ClusterError(f"{name} {pinned[name]} cannot be had: {result.stdout}{result.stderr}",
                               "is the Go module proxy within reach?")
        folder = pathlib.Path(json.loads(result.stdout)["Dir"])
        found += [folder / path for path in chosen]
    return found
