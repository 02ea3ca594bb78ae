# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the cluster tests; tests/cluster/README.md explains them."""

import pathlib
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness.environment import BIN_DIR  # noqa: E402
from harness.grpc_client import Protos  # noqa: E402
from harness.running import RunningCluster  # noqa: E402
from harness import tags  # noqa: E402

_failed = pytest.StashKey[bool]()


def pytest_configure(config):
    if not (BIN_DIR / "allezon-gateway").exists():
        pytest.exit(f"there are no programs in {BIN_DIR}: ./dev build, or set ALLEZON_BIN_DIR", 2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.stash[_failed] = True
        item.session.stash[_failed] = True


@pytest.fixture(scope="session")
def protos():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="allezon-protos-"))
    yield Protos(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pb(protos):
    return protos.messages


def _run(protos, options, has_failed):
    """Yields a started cluster; stops it whatever happens, and fails where it did not go well."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="allezon-cluster-"))
    running = RunningCluster(folder, protos, **options)
    wrong = ["it was not stopped"]
    try:
        running.launch()
        yield running
    finally:
        try:
            wrong = running.finish()
        finally:
            if wrong or has_failed():
                print(f"\nthe logs are kept in {folder}/log\n{running.log_tails()}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="session")
def cluster(protos, request):
    yield from _run(protos, {}, lambda: request.session.stash.get(_failed, False))


@pytest.fixture
def fresh_cluster(protos, request):
    generators = []

    def make(**options) -> RunningCluster:
        generator = _run(protos, options, lambda: request.node.stash.get(_failed, False))
        running = next(generator)
        generators.append(generator)
        return running

    yield make
    problems = []
    for generator in reversed(generators):
        try:
            next(generator, None)
        except AssertionError as error:
            problems.append(str(error))
    assert not problems, "\n".join(problems)


@pytest.fixture
def http(cluster):
    client = cluster.http()
    yield client
    client.close()


@pytest.fixture
def cookie():
    return tags.fresh_cookie()


@pytest.fixture
def minute():
    return tags.fresh_minute()
