#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Lays out the image's root file system: the programs, the shared libraries that they load, and
what those expect to find. Runs in the Dockerfile's build stage, as root, on Debian.

Of every Debian package that a file comes from, the record of dpkg and the copyright notice go along,
so that a scanner sees what is there (var/lib/dpkg/status.d holds a file a package)."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

PROGRAMS = ("allezon-gateway", "allezon-profile", "allezon-aggregate", "allezon-load")
USER = 65532

FILES = {
    "etc/passwd": f"root:x:0:0:root:/:/sbin/nologin\nallezon:x:{USER}:{USER}:allezon:/:/sbin/nologin\n",
    "etc/group": f"root:x:0:\nallezon:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
# Besides libraries: certificates of those who vouch for others, and which Debian this is.
EXTRA_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/usr/lib/os-release")
# Whose these are; and RocksDB, which is linked into the programs.
EXTRA_PACKAGES = ("ca-certificates", "base-files", "librocksdb-dev")
MERGED = ("bin", "lib", "lib64", "sbin")  # Debian's links into usr/


class AssembleError(Exception):
    """The image cannot be laid out; the message says why."""


def output_of(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False,
                            env={**os.environ, "LC_ALL": "C"})
    if result.returncode != 0:
        raise AssembleError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


def libraries_of(ldd_output: str) -> list[str]:
    """The files that a program loads, its loader among them, by what ldd prints of it."""
    paths = []
    for line in ldd_output.splitlines():
        if "not found" in line:
            raise AssembleError(f"a library is missing: {line.strip()}")
        match = re.match(r"\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", line)
        if match:
            paths.append(match[1])
    if not paths:
        raise AssembleError(f"ldd names no library: {ldd_output.strip()}")
    return paths


def canonical(path: str) -> str:
    """With usr/ where Debian's links lead there."""
    first = path.lstrip("/").split("/", 1)[0]
    return "/usr" + path if first in MERGED else path


def copy_with_links(path: str, root: pathlib.Path) -> str:
    """Copies a file and the links on the way to it; returns the file's own path."""
    while True:
        path = canonical(os.path.normpath(path))
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.islink(path):
            shutil.copyfile(path, target)
            target.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
            return path
        link = os.readlink(path)
        if not target.is_symlink():
            target.symlink_to(link)
        path = os.path.join(os.path.dirname(path), link)


def package_of(path: str) -> str:
    """The Debian package that a file is from; dpkg may know it under the name without usr/."""
    for name in (path, path.removeprefix("/usr")):
        result = subprocess.run(("dpkg-query", "--search", name), capture_output=True, text=True,
                                check=False)
        if result.returncode == 0:
            return result.stdout.split(": /", 1)[0].split(",")[0].strip()
    raise AssembleError(f"no package has {path}")


def record_package(package: str, root: pathlib.Path) -> None:
    name = package.split(":")[0]
    folder = root / "var/lib/dpkg/status.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(output_of("dpkg-query", "--status", package), encoding="utf-8")
    sums = output_of("dpkg-query", "--control-show", package, "md5sums").splitlines(keepends=True)
    here = [line for line in sums
            if (root / canonical("/" + line.split(maxsplit=1)[1].strip()).lstrip("/")).exists()]
    (folder / f"{name}.md5sums").write_text("".join(here), encoding="utf-8")
    notice = pathlib.Path("/usr/share/doc") / name / "copyright"
    target = root / "usr/share/doc" / name / "copyright"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(notice.read_bytes())


def assemble(programs: pathlib.Path, root: pathlib.Path) -> None:
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    packages = set(EXTRA_PACKAGES)
    for name in PROGRAMS:
        source = programs / name
        for library in libraries_of(output_of("ldd", str(source))):
            packages.add(package_of(copy_with_links(library, root)))
        # Names of functions stay, for stack traces; line numbers would double the image.
        output_of("strip", "--strip-debug", "-o", str(root / "usr/bin" / name), str(source))
    for path in EXTRA_FILES:
        copy_with_links(path, root)
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    for path, text in FILES.items():
        (root / path).write_text(text, encoding="utf-8")
    for package in sorted(packages):
        record_package(package, root)


def check(root: pathlib.Path) -> None:
    """Runs every program inside the root: a library that is missing shows here, not in a pod."""
    for name in PROGRAMS:
        result = subprocess.run((f"/usr/bin/{name}", "--help"), capture_output=True, text=True,
                                check=False, preexec_fn=lambda: os.chroot(root))
        if result.returncode != 0:
            raise AssembleError(f"{name} does not run in the image: {result.stderr.strip()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="folder of the programs")
    parser.add_argument("--root", type=pathlib.Path, required=True, help="to be made: the root")
    arguments = parser.parse_args()
    try:
        arguments.root.mkdir(parents=True)
        assemble(arguments.programs, arguments.root)
        check(arguments.root)
    except (AssembleError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
