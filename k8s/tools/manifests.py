#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev manifests`: renders k8s/allezon.yaml from the chart with its defaults, for `kubectl apply`
and kustomize, and gives the chart the version of CMakeLists.txt. --check: says what is not current."""

from __future__ import annotations

import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "k8s/chart"
MANIFESTS = ROOT / "k8s/allezon.yaml"
HEAD = """# SPDX-License-Identifier: Apache-2.0
#
# Rendered from k8s/chart with its defaults by ./dev manifests: change that, not this. It names no
# namespace: kubectl apply -n NAMESPACE -f allezon.yaml
"""


def project_version() -> str:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    match = re.search(r"^project\(allezon VERSION (\d+\.\d+\.\d+)", text, re.MULTILINE)
    if not match:
        raise ValueError("CMakeLists.txt has no project(allezon VERSION x.y.z)")
    return match[1]


def chart_with_version(text: str) -> str:
    text = re.sub(r"^version: .*$", f"version: {project_version()}", text, flags=re.MULTILINE)
    return re.sub(r"^appVersion: .*$", f'appVersion: "{project_version()}"', text, flags=re.MULTILINE)


def without_helm(text: str) -> str:
    """Without what is only true of a release: nobody manages these objects but who applies them."""
    text = re.sub(r"^ *(helm\.sh/[a-z-]+|app\.kubernetes\.io/managed-by): .*\n", "", text,
                  flags=re.MULTILINE)
    # Where that was the only annotation.
    text = re.sub(r"^( *)annotations:\n(?!\1 )", "", text, flags=re.MULTILINE)
    # The notes of where each is from, and files without objects.
    text = re.sub(r"^# (Source: .*|SPDX-License-Identifier: .*)\n", "", text, flags=re.MULTILINE)
    documents = re.split(r"^---\n", text, flags=re.MULTILINE)
    return "".join(f"---\n{document.strip()}\n" for document in documents
                   if re.search(r"^kind: ", document, re.MULTILINE))


def manifests(helm: pathlib.Path) -> str:
    rendered = subprocess.run(
        (helm, "template", "allezon", str(CHART), "--namespace", "allezon", "--no-hooks"),
        capture_output=True, text=True, check=False)
    if rendered.returncode != 0:
        raise ValueError(rendered.stderr.strip())
    return HEAD + without_helm(rendered.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev manifests", description=__doc__, allow_abbrev=False)
    parser.add_argument("--helm", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    chart_file = CHART / "Chart.yaml"
    stale = False
    try:
        # In this order: what is rendered names the version.
        for path, make in ((chart_file, lambda: chart_with_version(chart_file.read_text(encoding="utf-8"))),
                           (MANIFESTS, lambda: manifests(options.helm))):
            wanted = make()
            if path.exists() and path.read_text(encoding="utf-8") == wanted:
                continue
            if options.check:
                stale = True
                print(f"error: {path.relative_to(ROOT)} is not current: ./dev manifests", file=sys.stderr)
            else:
                path.write_text(wanted, encoding="utf-8")
                print(f"wrote {path.relative_to(ROOT)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
