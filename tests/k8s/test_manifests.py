# SPDX-License-Identifier: Apache-2.0
"""What is rendered, and stands in the repository, is current."""

import re
import subprocess
import sys

import yaml

from chart import CHART, HELM, ROOT, render

MANIFESTS = ROOT / "k8s/allezon.yaml"


def test_what_stands_in_the_repository_is_current():
    result = subprocess.run(
        (sys.executable, ROOT / "k8s/tools/manifests.py", "--helm", HELM, "--check"),
        capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


def test_the_plain_manifests_are_the_charts_objects_without_helm():
    text = MANIFESTS.read_text(encoding="utf-8")
    plain = [item for item in yaml.safe_load_all(text) if item]
    rendered = [item for item in render().all if item["kind"] != "Pod"]
    assert [(item["kind"], item["metadata"]["name"]) for item in plain] == \
        [(item["kind"], item["metadata"]["name"]) for item in rendered]
    assert not re.search(r"helm\.sh|managed-by", text)
    for item in plain:
        assert "namespace" not in item["metadata"]


def test_the_changelog_has_a_section_of_this_version():
    version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["version"]
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
                     re.MULTILINE)
