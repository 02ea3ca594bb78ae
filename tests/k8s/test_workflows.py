# SPDX-License-Identifier: Apache-2.0
"""What actionlint does not ask of the workflows."""

import re

import pytest
import yaml

from chart import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# What only a runner has: Docker and kind.
RUNNERS_OWN = ("docker build ", "kind create cluster", "kind load docker-image ")


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    text = request.param.read_text(encoding="utf-8")
    parsed = yaml.safe_load(text)
    return text, parsed, parsed[True]  # YAML takes `on` for a truth value


def steps_of(parsed):
    return [step for job in parsed["jobs"].values() for step in job["steps"]]


def test_there_are_the_workflows():
    assert [path.stem for path in WORKFLOWS] == ["ci", "deploy", "kubernetes", "release"]


def test_every_step_is_a_command_that_runs_elsewhere_too(workflow):
    _, parsed, _ = workflow
    commands = [step["run"] for step in steps_of(parsed) if "run" in step]
    assert commands
    dev = (ROOT / "dev").read_text(encoding="utf-8")
    for command in commands:
        assert "\n" not in command.strip() and "${{" not in command, command
        if command.startswith(RUNNERS_OWN) or command == ".ci/run":
            continue
        name = re.match(r"\./dev ([a-z]+)", command)
        assert name and f"\ncmd_{name[1]}()" in dev, command


def test_actions_are_pinned_by_commit(workflow):
    text, parsed, _ = workflow
    used = [step["uses"] for step in steps_of(parsed) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[a-z/-]+@[0-9a-f]{40}", action), action
        assert re.search(rf"{re.escape(action)} # v\d+\.\d+\.\d+\n", text), action


def test_permissions_are_the_least(workflow):
    _, parsed, _ = workflow
    assert parsed["permissions"] == {"contents": "read"}
    for job in parsed["jobs"].values():
        granted = {name for name, kind in job.get("permissions", {}).items() if kind == "write"}
        assert granted <= {"contents", "id-token", "attestations"}
        assert not granted or job.get("environment") == "release"
    for step in steps_of(parsed):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_a_pull_request_sees_no_secret(workflow):
    text, _, triggers = workflow
    names = set(triggers)
    if "pull_request" in names:
        assert "secrets." not in text and "id-token" not in text
    assert "pull_request_target" not in names
