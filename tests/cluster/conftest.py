# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the cluster tests; README.md explains them."""

import contextlib
import pathlib
import shutil
import tempfile

import pytest

from api import Gateway
from disks import Disks, NoDisks
from running import BEHIND_NGINX, BIN_DIR, RunningCluster

FAILED = pytest.StashKey[bool]()


def pytest_configure(config):
    if not (BIN_DIR / "allezon-gateway").exists():
        pytest.exit(f"there are no programs in {BIN_DIR}: ./dev build, or set ALLEZON_BIN_DIR", 2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.stash[FAILED] = item.session.stash[FAILED] = True


def _run(options, failed, with_disks=False):
    """Yields a started cluster; stops it whatever happens, and fails where that did not go well."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="allezon-cluster-"))
    running = RunningCluster(folder, **options)
    mounted = contextlib.ExitStack()
    problems = ["it did not start"]
    try:
        if with_disks:
            nodes = [id_ for service in ("profile", "aggregate") for id_ in running.settings.ids(service)]
            running.disks = mounted.enter_context(Disks(folder, nodes))
        running.launch()
        problems = []
        yield running
    finally:
        try:
            problems += running.finish()
            mounted.close()
        finally:
            if problems or failed():
                print(f"\nthe logs are kept in {folder}/log\n{running.log_tails()}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="session")
def cluster(request):
    # Replicated, so that whatever the tests of the surface ask holds for replicas.
    options = {"gateways": 2, "nginx": True} if BEHIND_NGINX else {}
    yield from _run({"rf": 3, **options}, lambda: request.session.stash.get(FAILED, False))


@pytest.fixture
def gateway(cluster):
    return Gateway(cluster.nginx if BEHIND_NGINX else cluster.http[0])


@pytest.fixture(scope="module")
def module_cluster(request):
    """For the tests of a file that break its nodes and put them back; two gateways."""
    yield from _run({"gateways": 2}, lambda: request.session.stash.get(FAILED, False))


@pytest.fixture
def fresh_cluster(request):
    yield from _factory(lambda: request.node.stash.get(FAILED, False))


@pytest.fixture(scope="module")
def module_cluster_of(request):
    """As fresh_cluster, for all tests of a file."""
    yield from _factory(lambda: request.session.stash.get(FAILED, False))


def _factory(failed):
    started = []

    def start(with_disks=False, **options):
        run = _run(options, failed, with_disks)
        try:
            running = next(run)
        except NoDisks as error:
            pytest.skip(f"no disks of its own: {error}")
        started.append(run)
        return running

    yield start
    problems = []
    for run in reversed(started):
        try:
            next(run, None)
        except AssertionError as error:
            problems.append(str(error))
    assert not problems, "\n".join(problems)
