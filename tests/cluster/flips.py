# SPDX-License-Identifier: Apache-2.0
"""Bits that flip in the data folder of a node that is down."""

import pathlib
import time
import urllib.error

# How long a node takes to read all that it has, in clusters where bits flip.
SCRUB_S = 4
# By what RocksDB calls its files. IDENTITY, OPTIONS and LOCK are not read when a folder is opened.
KINDS = {"log": "*.log", "table": "*.sst", "manifest": "MANIFEST-*", "current": "CURRENT"}
# What the log says: what that means.
FOUND = {
    "and an empty one takes its place": "the damage, and all is back",
    "a damaged data folder counts for nothing": "the damage of its log, and what came after is back",
    "the log ends within a record": "that its log ends early, and has compared itself",
}


def files_of(folder):
    """{kind: files that are not empty}, of the kinds that are there."""
    found = {kind: sorted(path for path in pathlib.Path(folder).glob(pattern) if path.stat().st_size)
             for kind, pattern in KINDS.items()}
    return {kind: files for kind, files in found.items() if files}


def flip_bit(folder, rng, kind=None):
    """Flips one bit: in a file of the kind, or of some kind, at any place. Returns what it did, for a person."""
    files = files_of(folder)
    file = rng.choice(files[kind or rng.choice(sorted(files))])
    at, bit = rng.randrange(file.stat().st_size), rng.randrange(8)
    with file.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)[0]
        stream.seek(at)
        stream.write(bytes([byte ^ (1 << bit)]))
    return f"bit {bit} of byte {at} of {file.name} ({file.stat().st_size} bytes)"


def garble(folder, kind):
    """Damages every file of the kind where it is surely read: a log in its middle, a table in its first block, else all."""
    for file in files_of(folder)[kind]:
        content = bytearray(file.read_bytes())
        hit = {"log": [len(content) // 2], "table": [0]}.get(kind, range(len(content)))
        for at in hit:
            content[at] ^= 0x10
        file.write_bytes(content)


def wait_read(cluster, id_, timeout_s):
    """Waits until a node that was just started has read all that it has, or was made anew; which of them it was."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            metrics = cluster.metrics(id_)
            has_read_all = metrics.get("allezon_scrub_completed_timestamp_seconds", 0) > 0
            if has_read_all and metrics.get("allezon_replica_shards_damaged") == 0:
                found = [said for text, said in FOUND.items() if text in cluster.log_tail(id_, lines=1000)]
                return "has found " + (found[0] if found else "nothing")
        except (urllib.error.URLError, OSError):
            pass  # it starts, or begins anew
        assert time.monotonic() < end, f"{id_} has not read all it has within {timeout_s} s"
        time.sleep(0.1)
