# SPDX-License-Identifier: Apache-2.0
"""A network of the test's own: a namespace for each process, joined by a bridge in one more (the hub), where the test itself
is for as long as it uses the network. Nothing of it is in the machine's own network. Needs root.

    with Network(["g0", "p0", …]) as network:       # this thread is in the hub now
        cluster = fresh_cluster(hosts=network.hosts, prefixes=network.prefixes)
        network.cut_in("p0"); network.cut_between("p0", "p1"); network.heal()

Cut is silent: packets are dropped, connections stay open, nobody is told. Delay needs netem, which not every kernel has."""

import ctypes
import os
import shutil
import subprocess

CLONE_NEWNET = 0x40000000
HUB = "hub"
SUBNET = "10.77.0"
HUB_ADDRESS = f"{SUBNET}.1"
FIRST_HOST = 11


class NoNetwork(Exception):
    """Why there can be no such network here."""


class Network:
    def __init__(self, ids):
        self.hosts = {id_: f"{SUBNET}.{FIRST_HOST + i}" for i, id_ in enumerate(ids)}
        self.prefixes = {id_: ["nsenter", f"--net=/run/netns/{self._name(id_)}"] for id_ in ids}
        self._home = None
        self._rules = {id_: [] for id_ in ids}  # lines of nft by process
        self._delayed = set()

    def __enter__(self):
        if os.geteuid() != 0:
            raise NoNetwork("network namespaces need root")
        for program in ("ip", "nft", "nsenter"):
            if shutil.which(program) is None:
                raise NoNetwork(f"{program} is not installed")
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self._build()
            for id_ in self.hosts:  # tells early that the kernel has no nftables
                self._apply(id_)
            self._move_to(f"/run/netns/{self._name(HUB)}")
        except BaseException as error:
            self.__exit__()
            if isinstance(error, subprocess.CalledProcessError):
                raise NoNetwork(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error
            raise
        return self

    def __exit__(self, *_):
        setns(self._home)
        os.close(self._home)
        for name in (*self.hosts, HUB):
            subprocess.run(["ip", "netns", "del", self._name(name)], check=False, capture_output=True)

    # --- cuts; they add up ---

    def unplug(self, id_):
        """The cable out of it: nothing in, nothing out, and its end knows."""
        run("ip", "-n", self._name(HUB), "link", "set", id_, "down")

    def cut_in(self, id_):
        """It can be heard and hears nothing."""
        self._add(id_, "add rule inet cut in iifname eth0 drop")

    def cut_out(self, id_):
        """It hears all and cannot be heard."""
        self._add(id_, "add rule inet cut out oifname eth0 drop")

    def cut_between(self, one, other):
        for id_, peer in ((one, other), (other, one)):
            self._add(id_, f"add rule inet cut in ip saddr {self.hosts[peer]} drop")

    def lose(self, percent):
        """So many of all packets, everywhere."""
        for id_ in self.hosts:
            self._add(id_, f"add rule inet cut in iifname eth0 numgen random mod 100 < {percent} drop")

    def delay(self, milliseconds):
        """All packets, everywhere. NoNetwork where the kernel has no netem."""
        for id_ in self.hosts:
            try:
                run("tc", "-n", self._name(id_), "qdisc", "replace", "dev", "eth0", "root", "netem", "delay",
                    f"{milliseconds}ms")
            except subprocess.CalledProcessError as error:
                raise NoNetwork(f"no delay: {error.stderr.strip()}") from error
            self._delayed.add(id_)

    def limit(self, id_, kbit_per_s):
        """Nothing leaves it faster, and what waits is dropped after a while."""
        run("tc", "-n", self._name(id_), "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", f"{kbit_per_s}kbit",
            "burst", "32kb", "latency", "400ms")
        self._delayed.add(id_)

    def heal(self):
        for id_ in self.hosts:
            if id_ in self._delayed:
                run("tc", "-n", self._name(id_), "qdisc", "del", "dev", "eth0", "root")
                self._delayed.remove(id_)
            self._rules[id_] = []
            self._apply(id_)
            run("ip", "-n", self._name(HUB), "link", "set", id_, "up")

    # --- inside ---

    def _name(self, id_):
        return f"allezon-{os.getpid()}-{id_}"

    def _build(self):
        hub = self._name(HUB)
        run("ip", "netns", "add", hub)
        run("ip", "-n", hub, "link", "set", "lo", "up")
        run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        run("ip", "-n", hub, "address", "add", f"{HUB_ADDRESS}/24", "dev", "bridge")
        run("ip", "-n", hub, "link", "set", "bridge", "up")
        for id_, host in self.hosts.items():
            name = self._name(id_)
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", hub, "link", "add", id_, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", hub, "link", "set", id_, "master", "bridge", "up")
            run("ip", "-n", name, "address", "add", f"{host}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")

    def _add(self, id_, rule):
        self._rules[id_].append(rule)
        self._apply(id_)

    def _apply(self, id_):
        """All rules of a process at once: nft -f is one transaction."""
        lines = ["add table inet cut", "delete table inet cut", "add table inet cut",
                 "add chain inet cut in { type filter hook input priority 0; policy accept; }",
                 "add chain inet cut out { type filter hook output priority 0; policy accept; }", *self._rules[id_]]
        run("ip", "netns", "exec", self._name(id_), "nft", "-f", "-", text_in="\n".join(lines) + "\n")

    def _move_to(self, path):
        fd = os.open(path, os.O_RDONLY)
        try:
            setns(fd)
        finally:
            os.close(fd)


def setns(fd):
    """Moves this thread into the network namespace. (os.setns is of Python 3.12.)"""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


def run(*argv, text_in=None):
    subprocess.run(argv, input=text_in, text=True, check=True, capture_output=True)
