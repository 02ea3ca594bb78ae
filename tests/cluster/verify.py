# SPDX-License-Identifier: Apache-2.0
"""Whether all replicas of all shards of a cluster are equal, and on which of them acknowledged tags stand. ./dev verify runs
this file as a program; tests call verify().

It works beside a load. What differs is compared again, all its replicas as close together in time as can be, until it is
equal or has differed for `patience_s`: only that is reported."""

import argparse
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "local"))
from entries import load_entries  # noqa: E402
from settings import ClusterError  # noqa: E402
from verify_replicas import Comparison  # noqa: E402
from verify_service import Report, Service, UsageError  # noqa: E402
from verify_tags import Search, TagLine, read_tags  # noqa: E402

PATIENCE_S = 10.0


def verify(folder, tags=(), patience_s=PATIENCE_S):
    """Report of the cluster of a folder; `tags`: TagLines, or what makes them. UsageError where there is no cluster."""
    tags = [tag if isinstance(tag, TagLine) else TagLine(tag) for tag in tags]
    report = Report()
    for name, entries in services_of(folder).items():
        with Service(name, entries, report, patience_s) as service:
            Comparison(service).run()
            if tags:
                Search(service).run(tags)
    return report


def services_of(folder):
    """{service: its entries of cluster.json}"""
    try:
        entries = load_entries(pathlib.Path(folder))
    except ClusterError as error:
        raise UsageError(str(error)) from error
    services = {name: [entry for entry in entries if entry["id"][0] == name[0]] for name in ("profile", "aggregate")}
    if not all(services.values()):
        raise UsageError(f"there is no cluster in {folder}: it has no cluster.json with nodes")
    return services


# --- the program ----------------------------------------------------------------------------------


def main(argv):
    parser = argparse.ArgumentParser(
        prog="./dev verify", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Compares all replicas of all shards of a running cluster, also beside a load: what differs is compared "
                    f"again until it is equal or has differed for {PATIENCE_S:.0f} s, and only that is reported. A replica "
                    "that cannot be asked is a failure.",
        epilog="exit code: 0 all is well, 1 something is wrong, 2 there is no such cluster or file")
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "run", metavar="DIR",
                        help="folder of the cluster, as of ./dev run (default: run)")
    parser.add_argument("--tags", type=pathlib.Path, metavar="FILE",
                        help="also find these acknowledged tags on every replica. A JSON object a line: time, cookie, action as "
                             "they were sent; key: the Idempotency-Key; sent_s: the wall clock when it was sent; other fields "
                             "of the tag are compared")
    options = parser.parse_args(argv)
    try:
        report = verify(options.dir, read_tags(options.tags) if options.tags else ())
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.text())
    return 1 if report.problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
