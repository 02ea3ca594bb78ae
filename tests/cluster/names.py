# SPDX-License-Identifier: Apache-2.0
"""Names for nodes, in a hosts file of their own, so that a node can come back under another address.

    names = Names(["p0", "p1", "p2"])
    cluster = fresh_cluster(names=names)
    names.move(cluster, "p1", signal.SIGTERM)   # ends it, and starts it under a new address

Every process sees the file as its /etc/hosts, in a mount namespace of its own (root)."""

import pathlib
import shutil
import subprocess
import tempfile

DOMAIN = "nodes.test"


class NoNames(Exception):
    """This machine cannot: why."""


class Names:
    def __init__(self, ids):
        self.ids = ids
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="allezon-names-"))
        self._file = self._folder / "hosts"
        self._addresses = {id_: "127.0.0.1" for id_ in ids}
        self._moves = 0
        self._write()
        # The file is written in place: a bind mount follows the inode.
        self.prefix = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c",
                       'mount --bind "$0" /etc/hosts && exec "$@"', str(self._file)]
        tried = subprocess.run([*self.prefix, "true"], capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            raise NoNames(tried.stderr.strip())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self._folder)

    def name(self, id_):
        return f"{id_}.{DOMAIN}"

    def leave(self, cluster, id_, end):
        """Ends a node by a signal; its name does not resolve any more."""
        cluster.kill(id_, end)
        del self._addresses[id_]
        self._write()

    def arrive(self, cluster, id_):
        """Starts it under a new address, which its name leads to from then on."""
        self._moves += 1
        address = f"127.0.{1 + self._moves // 250}.{1 + self._moves % 250}"
        entry = cluster.entry(id_)
        port = entry["grpc"].rpartition(":")[2]
        entry["grpc"] = f"{address}:{port}"
        entry["argv"] = [f"--listen={entry['grpc']}" if word.startswith("--listen=") else word for word in entry["argv"]]
        cluster.restart(id_)
        self._addresses[id_] = address
        self._write()

    def move(self, cluster, id_, end):
        self.leave(cluster, id_, end)
        self.arrive(cluster, id_)

    def _write(self):
        lines = ["127.0.0.1 localhost", *(f"{address} {self.name(id_)}" for id_, address in self._addresses.items())]
        self._file.write_text("\n".join(lines) + "\n")


class Fronts:
    """The host:port by which others reach a node, once its port is chosen."""

    def __init__(self, names, settings):
        self._names = names
        self._settings = settings

    def get(self, id_):
        return f"{self._names.name(id_)}:{self._settings.ports[id_]}" if id_ in self._names.ids else None
