# SPDX-License-Identifier: Apache-2.0
"""`./dev image --push` and `./dev chart --push` against a real registry that asks for a password."""

import argparse
import base64
import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "image"))
import build  # noqa: E402

USER, PASSWORD = "pusher", "secret of the test"
READY_S = 20


def get(port, path, password=PASSWORD):
    accept = "application/vnd.oci.image.manifest.v1+json"
    key = base64.b64encode(f"{USER}:{password}".encode()).decode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}",
                                     headers={"Authorization": f"Basic {key}", "Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    hashed = subprocess.run(("htpasswd", "-Bbn", USER, PASSWORD), capture_output=True, text=True, check=True)
    (folder / "passwords").write_text(hashed.stdout)
    (folder / "config.yml").write_text(json.dumps({
        "version": 0.1, "http": {"addr": f"127.0.0.1:{number}", "secret": "s"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "auth": {"htpasswd": {"realm": "test", "path": str(folder / "passwords")}}}))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(("docker-registry", "serve", folder / "config.yml"), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                get(number, "/v2/")
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        yield number
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A small image in a storage of its own."""
    patch = pytest.MonkeyPatch()
    work = tmp_path_factory.mktemp("images")
    patch.setattr(build, "WORK", work)
    (work / "file").write_text("content")
    buildah = build.Buildah()
    container = buildah("from", "scratch", quiet=True)
    buildah("add", "--quiet", container, str(work / "file"), "/file")
    buildah("commit", "--quiet", container, "localhost/test:1")
    yield buildah
    for kind in ("rm", "rmi"):
        buildah(kind, "--all", quiet=True)
    patch.undo()


def options(port):
    return argparse.Namespace(push=f"127.0.0.1:{port}/team/allezon", plain_http=True)


@pytest.fixture
def access(monkeypatch):
    monkeypatch.setenv(build.USER_VARIABLE, USER)
    monkeypatch.setenv(build.PASSWORD_VARIABLE, PASSWORD)


def test_an_image_is_pushed_under_the_version_with_the_password(image, port, access):
    pushed = build.push(image, "localhost/test:1", options(port))
    name, digest = pushed.split("@")
    assert name == f"127.0.0.1:{port}/team/allezon"
    manifest = get(port, f"/v2/team/allezon/manifests/{build.version()}")
    assert f"sha256:{hashlib.sha256(manifest).hexdigest()}" == digest
    assert build.push(image, "localhost/test:1", options(port)) == pushed


def test_without_the_right_password_nothing_is_pushed(image, port, access, monkeypatch):
    monkeypatch.setenv(build.PASSWORD_VARIABLE, "wrong")
    with pytest.raises(build.ImageError):
        build.push(image, "localhost/test:1", options(port))
    monkeypatch.delenv(build.PASSWORD_VARIABLE)
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/nonexistent/auth.json")
    with pytest.raises(build.ImageError):
        build.push(image, "localhost/test:1", options(port))


def test_the_chart_is_pushed_as_an_artifact(port):
    def push(password):
        return subprocess.run(
            (ROOT / "dev", "chart", "--push", f"127.0.0.1:{port}/charts", "--plain-http"),
            env={**os.environ, build.USER_VARIABLE: USER, build.PASSWORD_VARIABLE: password},
            capture_output=True, text=True, check=False, timeout=120)
    assert push("wrong").returncode != 0
    done = push(PASSWORD)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(get(port, f"/v2/charts/allezon/manifests/{build.version()}"))
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.helm.config.v1+json"
