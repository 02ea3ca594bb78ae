# SPDX-License-Identifier: Apache-2.0
"""`./dev deploy` and `./dev release` against programs and a server that only write down what they are
asked."""

import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from chart import ROOT

sys.path.insert(0, str(ROOT / "k8s/tools"))
import manifests  # noqa: E402
import release  # noqa: E402

# helm and kubectl in one: answers from a script {"first words": [[exit code, stdout], …]}, the last of
# which stays; all that is asked is written down.
PROGRAM = """#!{python}
import json, os, sys
folder = os.path.dirname(sys.argv[0])
words = [word for word in sys.argv[1:]]
open(folder + "/asked", "a").write(" ".join([os.path.basename(sys.argv[0])] + words) + "\\n")
script = json.load(open(folder + "/script"))
for key, answers in script.items():
    if all(word in words for word in key.split()):
        code, text = answers.pop(0) if len(answers) > 1 else answers[0]
        json.dump(script, open(folder + "/script", "w"))
        print(text)
        sys.exit(code)
sys.exit("not in the script: " + " ".join(words))
"""
RUNS = json.dumps([{"revision": 3, "status": "superseded"}, {"revision": 4, "status": "deployed"}])
FAILED = json.dumps([*json.loads(RUNS), {"revision": 5, "status": "failed"}])
UPGRADED = json.dumps([{"revision": 4, "status": "superseded"}, {"revision": 5, "status": "deployed"}])
NONE = '{"items": []}'


@pytest.fixture
def deploy(tmp_path):
    for name in ("helm", "kubectl"):
        (tmp_path / name).write_text(PROGRAM.format(python=sys.executable))
        (tmp_path / name).chmod(0o755)

    def run(script, *options, env=None):
        (tmp_path / "script").write_text(json.dumps(script))
        result = subprocess.run(
            (sys.executable, ROOT / "k8s/tools/deploy.py", "--tools", tmp_path, *options),
            capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **(env or {})})
        asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
        return result, asked
    return run


def script(history=(RUNS,), upgrade=0, test=0, rollback=0, installed="[{}]"):
    return {"list": [[0, installed]], "history": [[0, text] for text in history],
            "upgrade": [[upgrade, ""]], "test": [[test, ""]], "rollback": [[rollback, ""]],
            "get statefulsets": [[0, NONE]]}


def test_what_passes_its_test_stays(deploy):
    result, asked = deploy(script(), "--image", "registry.test/x/allezon", "--version", "v1.2.3",
                           "--values", "a.yaml")
    assert result.returncode == 0, result.stderr
    (upgrade,) = [line for line in asked if " upgrade " in line]
    assert "--values a.yaml --set-string image.repository=registry.test/x/allezon " \
           "--set-string image.tag=1.2.3 --wait" in upgrade
    assert not [line for line in asked if "rollback" in line]


def test_a_digest_is_deployed_as_one(deploy):
    _, asked = deploy(script(), "--image", "registry.test:5000/allezon", "--version", "sha256:12")
    (upgrade,) = [line for line in asked if " upgrade " in line]
    assert "image.repository=registry.test:5000/allezon --set-string image.digest=sha256:12" in upgrade


@pytest.mark.parametrize(("steps", "said"), [
    ({"test": 1, "history": (RUNS, RUNS, UPGRADED)}, "its test failed; revision 4 runs again"),
    ({"upgrade": 1, "history": (RUNS, RUNS, FAILED)}, "did not become ready; revision 4 runs again"),
    ({"test": 1, "rollback": 1, "history": (RUNS, RUNS, UPGRADED)}, "the rollback to revision 4 did not"),
])
def test_what_fails_is_rolled_back(deploy, steps, said):
    result, asked = deploy(script(**steps))
    assert result.returncode == 1 and said in result.stderr
    assert [line for line in asked if "rollback allezon 4 --wait" in line]


def test_a_refused_upgrade_is_not_rolled_back(deploy):
    result, asked = deploy(script(upgrade=1))
    assert result.returncode == 1 and "nothing was changed, revision 4 runs" in result.stderr
    assert not [line for line in asked if "rollback" in line]


def test_a_first_installation_that_fails_stays(deploy):
    result, asked = deploy(script(upgrade=1, installed="[]"))
    assert result.returncode == 1 and "nothing before it to go back to" in result.stderr
    assert not [line for line in asked if "rollback" in line]


def test_a_cluster_that_does_not_answer_is_an_error(deploy):
    result, _ = deploy({"list": [[1, ""]]})
    assert result.returncode == 1 and "error: " in result.stderr


def test_old_pods_of_zones_are_replaced_one_at_a_time(deploy):
    def zoned(zone):
        return {"spec": {"updateStrategy": {"type": "OnDelete"},
                         "selector": {"matchLabels": {"allezon.zone": zone}}},
                "status": {"updateRevision": "new"}}

    def pod(name, zone, revision):
        return {"metadata": {"name": name, "labels": {"allezon.zone": zone,
                                                      "controller-revision-hash": revision}}}
    pods = [pod("a-0", "a", "old"), pod("a-1", "a", "new"), pod("b-0", "b", "old")]
    result, asked = deploy({
        **script(), "get statefulsets": [[0, json.dumps({"items": [zoned("a"), zoned("b")]})]],
        "get pods": [[0, json.dumps({"items": pods})]], "delete": [[0, ""]], "wait": [[1, ""], [0, ""]]})
    assert result.returncode == 0, result.stderr
    done = [" ".join(line.split()[3:5]) for line in asked
            if line.startswith("kubectl") and " get " not in line]
    assert done == ["delete pod", "wait pod/a-0", "wait pod/a-0", "delete pod", "wait pod/b-0"]
    assert [line.split()[5] for line in asked if " delete pod " in line] == ["a-0", "b-0"]


def test_secrets_come_from_the_environment(deploy):
    result, asked = deploy(script(), env={"ALLEZON_KUBECONFIG": "k", "ALLEZON_VALUES": "v"})
    assert result.returncode == 0, result.stderr
    assert all("--kubeconfig /" in line for line in asked)
    assert any("values.yaml" in line for line in asked)


CHANGELOG = "# Changelog\n\n## 0.2.0 (2026-01-01)\n\n- New.\n\n## 0.1.0 (unreleased)\n\n- First.\n"


def test_notes_are_the_section_of_the_version():
    assert release.notes(CHANGELOG, "0.2.0") == "- New.\n"
    for version, said in (("0.3.0", "no notes"), ("0.1.0", "unreleased")):
        with pytest.raises(release.ReleaseError, match=said):
            release.notes(CHANGELOG, version)


def test_a_tag_of_another_version_is_refused():
    with pytest.raises(release.ReleaseError, match="is not v"):
        release.check("v99.0.0")


class GitHub(http.server.BaseHTTPRequestHandler):
    asked: list = []
    upload_code = 200

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.command, self.path, body, self.headers["Authorization"]))
        code = self.upload_code if "/upload" in self.path else 200
        text = json.dumps({"id": 7, "html_url": "there",
                           "upload_url": f"http://127.0.0.1:{self.server.server_port}/upload{{?name}}"})
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    do_PATCH = do_POST

    def log_message(self, *_):
        pass


@pytest.fixture
def github(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), GitHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(GitHub, "asked", [])
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("GITHUB_REPOSITORY", "o/r")
    monkeypatch.setenv("GITHUB_TOKEN", "t")
    monkeypatch.setattr(release, "check", lambda tag: "- Notes.\n")
    yield GitHub
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_release_is_a_draft_until_its_files_are_there(github, tmp_path):
    file = tmp_path / "a+b.tgz"
    file.write_bytes(b"chart")
    assert release.publish("v" + manifests.project_version(), [file]) == "there"
    made, uploaded, published = github.asked
    assert made[0] == "POST" and json.loads(made[2])["draft"] is True
    assert json.loads(made[2])["body"] == "- Notes.\n"
    assert uploaded[1:3] == ("/upload?name=a%2Bb.tgz", b"chart")
    assert published[:2] == ("PATCH", "/repos/o/r/releases/7")
    assert json.loads(published[2]) == {"draft": False}
    assert {item[3] for item in github.asked} == {"Bearer t"}


def test_a_release_that_lacks_a_file_stays_a_draft(github, tmp_path, monkeypatch):
    file = tmp_path / "chart.tgz"
    with pytest.raises(release.ReleaseError, match="no file"):
        release.publish("v1", [file])
    assert not github.asked
    file.write_bytes(b"chart")
    monkeypatch.setattr(GitHub, "upload_code", 500)
    with pytest.raises(release.ReleaseError, match="500"):
        release.publish("v1", [file])
    assert len(github.asked) == 2
