#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev deploy`: installs the chart on a cluster or upgrades what runs there, waits until all is ready,
and runs the chart's test: tags in, answers compared. Where one of these fails, what ran before comes
back; a first installation that fails stays, to be looked at.

With zones the StatefulSets replace no pod by themselves, since each would do so regardless of the
others: their pods are replaced here, one at a time over all zones."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
KUBECONFIG_VARIABLE = "ALLEZON_KUBECONFIG"
VALUES_VARIABLE = "ALLEZON_VALUES"


class DeployError(Exception):
    """It was not deployed; the message says why, and what runs now."""


def output_of(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise DeployError(f"{' '.join(command[:1] + command[-3:])}: {result.stderr.strip()}")
    return result.stdout


class Helm:
    def __init__(self, options: argparse.Namespace, kubeconfig: str | None):
        access = ["--namespace", options.namespace]
        access += ["--kubeconfig", kubeconfig] if kubeconfig else []
        self.base = [str(options.tools / "helm"), *access]
        self.kubectl = [str(options.tools / "kubectl"), *access]

    def __call__(self, *arguments: str) -> bool:
        """Whether it succeeded; what it says goes to the terminal."""
        return subprocess.run([*self.base, *arguments], check=False).returncode == 0

    def history(self, release: str) -> list[dict]:
        """The release's revisions; none where it was never installed."""
        listed = self.output("list", "--all", "--filter", f"^{release}$", "-o", "json")
        return json.loads(self.output("history", release, "-o", "json")) if json.loads(listed) else []

    def latest_revision(self, release: str) -> int | None:
        return max((item["revision"] for item in self.history(release)), default=None)

    def deployed_revision(self, release: str) -> int | None:
        """The last one that became ready."""
        return max((item["revision"] for item in self.history(release)
                    if item["status"] in ("deployed", "superseded")), default=None)

    def output(self, *arguments: str) -> str:
        return output_of([*self.base, *arguments])

    def objects(self, kind: str, release: str) -> list[dict]:
        selector = f"app.kubernetes.io/instance={release}"
        return json.loads(output_of([*self.kubectl, "get", kind, "-l", selector, "-o", "json"]))["items"]


def roll_zones(helm: Helm, release: str, timeout_s: int) -> bool:
    """Replaces the old pods of sets that do not do so themselves; whether each became ready."""
    for item in helm.objects("statefulsets", release):
        if item["spec"]["updateStrategy"]["type"] != "OnDelete":
            continue
        zone, wanted = item["spec"]["selector"]["matchLabels"], item["status"]["updateRevision"]
        for pod in helm.objects("pods", release):
            labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
            mine = all(labels.get(key) == value for key, value in zone.items())
            if not mine or labels["controller-revision-hash"] == wanted:
                continue
            print(f"replacing {name}", flush=True)
            output_of([*helm.kubectl, "delete", "pod", name])
            if not wait_ready(helm, name, timeout_s):
                return False
            # As a set would: its peers have to find it first.
            time.sleep(item["spec"].get("minReadySeconds", 0))
    return True


def wait_ready(helm: Helm, pod: str, timeout_s: int) -> bool:
    deadline = time.monotonic() + timeout_s
    # There is none for a moment.
    while time.monotonic() < deadline:
        if subprocess.run([*helm.kubectl, "wait", f"pod/{pod}", "--for=condition=Ready", "--timeout=10s"],
                          capture_output=True, check=False).returncode == 0:
            return True
        time.sleep(0.5)
    return False


def image_values(image: str, version: str) -> list[str]:
    """--set-string flags of NAME[:TAG] or NAME with a version or digest."""
    if version.startswith("sha256:"):
        return ["--set-string", f"image.repository={image}", "--set-string", f"image.digest={version}"]
    folder, _, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    repository = f"{folder}/{name}" if folder else name
    # A tag of git is v0.1.0, that of an image 0.1.0.
    tag = version.removeprefix("v") or tag
    return ["--set-string", f"image.repository={repository}", "--set-string", f"image.tag={tag}"]


def deploy(helm: Helm, options: argparse.Namespace, values: list[str]) -> None:
    before, latest = helm.deployed_revision(options.release), helm.latest_revision(options.release)
    chosen = [argument for value in values for argument in ("--values", value)]
    chosen += image_values(options.image, options.version) if options.image else []
    wait = ["--wait", "--timeout", f"{options.timeout_s}s"]
    installed = helm("upgrade", "--install", options.release, str(ROOT / "k8s/chart"),
                     "--create-namespace", *chosen, *wait)
    installed = installed and roll_zones(helm, options.release, options.timeout_s)
    if installed and helm("test", options.release, "--logs", "--timeout", "180s"):
        return
    what = "its test failed" if installed else "it did not become ready"
    if before is None:
        raise DeployError(f"{what}; there was nothing before it to go back to")
    if helm.latest_revision(options.release) == latest:
        raise DeployError(f"{what}; nothing was changed, revision {before} runs")
    if not (helm("rollback", options.release, str(before), *wait) and
            roll_zones(helm, options.release, options.timeout_s)):
        raise DeployError(f"{what}, and the rollback to revision {before} did not become ready")
    raise DeployError(f"{what}; revision {before} runs again")


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev deploy", description=__doc__, allow_abbrev=False)
    parser.add_argument("--tools", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--release", default="allezon", help="(default %(default)s)")
    parser.add_argument("--namespace", default="allezon", help="(default %(default)s)")
    parser.add_argument("--kubeconfig", help=f"file; default: the content of ${KUBECONFIG_VARIABLE}, "
                                             "or what kubectl takes")
    parser.add_argument("--values", action="append", default=[], metavar="FILE",
                        help=f"values, the later over the earlier; the content of ${VALUES_VARIABLE} over all")
    parser.add_argument("--image", help="REGISTRY/NAME[:TAG]; default: what the values say")
    parser.add_argument("--version", default="", help="of the image: a version or sha256:…")
    parser.add_argument("--timeout_s", type=int, default=900, help="to become ready (default %(default)s)")
    options = parser.parse_args()
    if options.version and not options.image:
        parser.error("--version needs --image")
    try:
        with tempfile.TemporaryDirectory(prefix="allezon-deploy-") as folder:
            kubeconfig, values = options.kubeconfig, list(options.values)
            for variable, name in ((KUBECONFIG_VARIABLE, "kubeconfig"), (VALUES_VARIABLE, "values.yaml")):
                content = os.environ.get(variable)
                if not content:
                    continue
                path = pathlib.Path(folder) / name
                path.touch(mode=0o600)
                path.write_text(content, encoding="utf-8")
                if name == "values.yaml":
                    values.append(str(path))
                elif not kubeconfig:
                    kubeconfig = str(path)
            deploy(Helm(options, kubeconfig), options, values)
    except (DeployError, OSError, json.JSONDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
