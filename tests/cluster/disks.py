# SPDX-License-Identifier: Apache-2.0
"""A disk for each node: a file with an ext4 in it, so that one can be slow, full or without power, and the others not. Needs
root.

    with Disks(folder, ["p0", …]) as disks:         # before the cluster is launched in the folder
        disks.slow("p0", 20); disks.fill("p0"); disks.heal()
        disks.cut_power("p0"); …; disks.give_power("p0")

The data of a node is then a link into its disk."""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import struct
import subprocess
import time

from cgroups import NoCgroups, v1_folder

DISK_MIB = 1024  # at most: the file is sparse
# The kernel's EXT4_IOC_SHUTDOWN, without writing anything that waits: what xfs_io's "shutdown" does.
EXT4_SHUTDOWN = 0x8004587D
WITHOUT_LOG = 2
UNMOUNT_TIMEOUT_S = 10


class NoDisks(Exception):
    """Why there can be no such disks here."""


class Disks:
    def __init__(self, folder, ids):
        self.folder = pathlib.Path(folder)
        self.ids = list(ids)
        self._mounted = contextlib.ExitStack()
        self._slow = {}  # id: the device that is throttled

    def __enter__(self):
        if os.geteuid() != 0:
            raise NoDisks("mounting disks needs root")
        for program in ("mkfs.ext4", "mount", "umount"):
            if shutil.which(program) is None:
                raise NoDisks(f"{program} is not installed")
        try:
            for id_ in self.ids:
                self._make(id_)
            throttle_file()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, subprocess.CalledProcessError):
                raise NoDisks(f"{' '.join(map(str, error.cmd))}: {error.stderr.strip()}") from error
            raise
        return self

    def __exit__(self, *_):
        self.heal()
        self._mounted.close()

    def _make(self, id_):
        image, disk = self._image(id_), self._disk(id_)
        disk.mkdir(parents=True)
        with image.open("wb") as file:
            file.truncate(DISK_MIB << 20)
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard", image)
        run("mount", "-o", "loop", image, disk)
        self._mounted.callback(run, "umount", "--lazy", disk)
        (disk / "data").mkdir()
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "data" / id_).symlink_to(disk / "data")

    def slow(self, id_, writes_per_s):
        """No more writes a second reach the disk, whoever sends them."""
        number = os.stat(self._disk(id_)).st_dev
        self._slow[id_] = f"{os.major(number)}:{os.minor(number)}"
        throttle_file().write_text(f"{self._slow[id_]} {writes_per_s}")

    def fill(self, id_):
        """Not a byte is free any more."""
        with self._ballast(id_).open("wb") as file:
            size, step = 0, 64 << 20
            while step >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    step //= 4

    def cut_power(self, id_):
        """What was synced is on the disk, and nothing else; until power is given again nobody can read or write."""
        fd = os.open(self._disk(id_), os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_SHUTDOWN, struct.pack("I", WITHOUT_LOG))
        finally:
            os.close(fd)

    def give_power(self, id_):
        """The node must have ended."""
        image, disk = self._image(id_), self._disk(id_)
        deadline = time.monotonic() + UNMOUNT_TIMEOUT_S
        while True:
            try:
                run("umount", disk)
                break
            except subprocess.CalledProcessError:
                # The kernel takes a moment to let go of what a process had open.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        run("mount", "-o", "loop", image, disk)

    def heal(self):
        """As fast as before, and as empty."""
        for id_ in self.ids:
            self._ballast(id_).unlink(missing_ok=True)
        for device in self._slow.values():
            throttle_file().write_text(f"{device} 0")
        self._slow.clear()

    def _image(self, id_):
        return self.folder / "disks" / f"{id_}.ext4"

    def _disk(self, id_):
        return self.folder / "disks" / id_

    def _ballast(self, id_):
        return self._disk(id_) / "ballast"


def throttle_file():
    """Of the root group, to which also what the kernel writes by itself belongs."""
    try:
        file = v1_folder("blkio") / "blkio.throttle.write_iops_device"
    except NoCgroups as error:
        raise NoDisks(f"no disk can be throttled: {error}") from None
    if not os.access(file, os.W_OK):
        raise NoDisks(f"no disk can be throttled: {file} cannot be written")
    return file


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)
