# SPDX-License-Identifier: Apache-2.0
"""./dev bench: allezon beside what a user would pick instead, and beside what the machine gives at best."""

import argparse
import pathlib
import signal
import sys

import aggregates
import growth
import ingest
import limits
import reads
import rivals
import strain
import table
from processes import ROOT, BenchError
from session import Session

SECTIONS = {"limits": limits, "ingest": ingest, "reads": reads, "aggregates": aggregates, "rivals": rivals,
            "growth": growth, "strain": strain}
SECONDS_DEFAULT, ROUNDS_DEFAULT = 10, 5
SECONDS_QUICK, ROUNDS_QUICK = 1, 1


def parse_arguments(argv):
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, help=f"of all cases, interleaved (default {ROUNDS_DEFAULT})")
    parser.add_argument("--seconds", type=int, help=f"of each measurement (default {SECONDS_DEFAULT})")
    parser.add_argument("--quick", action="store_true",
                        help="some of the cases, little data, one round of short runs: shows that everything works, "
                             "measures nothing")
    parser.add_argument("--only", metavar="SECTION,…", help=f"of {','.join(SECTIONS)} (default: all)")
    parser.add_argument("--case", metavar="TEXT", help="only cases whose name contains it")
    parser.add_argument("--data", default="/var/tmp", metavar="DIR",
                        help="where databases lie while they run; a folder on the disk to be measured (default /var/tmp)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "bench", metavar="DIR",
                        help="where the table goes (default build/bench)")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS_DEFAULT)
    options.seconds = options.seconds or (SECONDS_QUICK if options.quick else SECONDS_DEFAULT)
    options.sections = options.only.split(",") if options.only else list(SECTIONS)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"--only {unknown.pop()}: it is one of {', '.join(SECTIONS)}")
    return options


def main(argv):
    options = parse_arguments(argv)
    # What ends this ends what it started: every process is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    path = table.new_path(options.out)
    with Session(seconds=options.seconds, data_dir=options.data, quick=options.quick,
                 note=lambda line: print(line, flush=True)) as session:
        for name in options.sections:
            cases = [case for case in SECTIONS[name].cases()
                     if (options.case or "") in case.name and (case.quick or not options.quick)]
            try:
                session.run(cases, min(options.rounds, getattr(SECTIONS[name], "ROUNDS_MAX", options.rounds)))
            finally:
                table.write(session, " ".join(argv), path)
    print(f"\n{path.read_text()}\nIt is in {path}, every round in {path.with_suffix('.json').name}.")
    return 1 if any(result.error for result in session.results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BenchError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")
