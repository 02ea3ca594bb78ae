#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev image`: builds the Dockerfile with buildah, where there is no Docker daemon and no registry
to take a base from, writes an SBOM, and says what the image weighs. Needs root.

Two builds of one commit from the same packages have one digest: every time in the image is the
commit's, and nothing in it names the machine or the day."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "k8s/tools"))
import sbom  # noqa: E402
from manifests import project_version as version  # noqa: E402

WORK = ROOT / "build/image"
BASE = "docker.io/library/debian:bookworm-slim"  # what the Dockerfile's FROM resolves to
RELEASE = "bookworm"
SIZE_MAX_MB = 120
USER_VARIABLE = "ALLEZON_REGISTRY_USER"
PASSWORD_VARIABLE = "ALLEZON_REGISTRY_PASSWORD"


class ImageError(Exception):
    """The image cannot be built or pushed; the message says why."""


@dataclasses.dataclass(frozen=True)
class Commit:
    revision: str  # with -dirty where the tree differs from it
    time_s: int

    @property
    def created(self) -> str:
        time = datetime.datetime.fromtimestamp(self.time_s, datetime.timezone.utc)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def say(line: str) -> None:
    print(f"\033[1m== {line}\033[0m", flush=True)


def run(*command: str, quiet: bool = False, text: str | None = None) -> str:
    """What the command prints. Unless quiet, what it says on stderr goes to the terminal."""
    result = subprocess.run(command, check=False, stdout=subprocess.PIPE, input=text,
                            stderr=subprocess.PIPE if quiet else None, text=True)
    if result.returncode != 0:
        why = f": {result.stderr.strip()}" if quiet else ""
        raise ImageError(f"{command[0]} failed{why}")
    return result.stdout.strip()


def git(*arguments: str) -> str:
    return run("git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", *arguments, quiet=True)


def commit() -> Commit:
    dirty = "-dirty" if git("status", "--porcelain", "--untracked-files=normal") else ""
    return Commit(git("rev-parse", "HEAD") + dirty, int(git("log", "-1", "--format=%ct")))


def source_url() -> str:
    """Where the source is for everybody: none where the clone is from a folder."""
    server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    if server and repository:
        return f"{server}/{repository}"
    with contextlib.suppress(ImageError):
        url = git("remote", "get-url", "origin")
        if url.startswith("https://") and "@" not in url:
            return url.removesuffix(".git")
    return ""


class Buildah:
    """buildah with a storage of its own, so that nothing else on the machine is touched."""

    def __init__(self) -> None:
        self.driver = "overlay"
        try:
            self("info", quiet=True)
        except ImageError:
            self.driver = "vfs"  # inside most containers

    def __call__(self, *arguments: str, quiet: bool = False, text: str | None = None) -> str:
        storage = WORK / f"storage-{self.driver}"
        return run("buildah", "--root", str(storage), "--runroot", str(storage / "run"),
                   "--storage-driver", self.driver, *arguments, quiet=quiet, text=text)

    def has(self, image: str) -> bool:
        return bool(self("images", "--quiet", "--filter", f"reference={image}"))


def debian_sources() -> list[tuple[str, str]]:
    """The (address, suite) of Debian that this machine's apt uses: no other is within reach."""
    listed = run("apt-get", "indextargets", "--format", "$(ORIGIN) $(IDENTIFIER) $(REPO_URI) $(RELEASE)",
                 quiet=True)
    found = [tuple(line.split()[2:]) for line in listed.splitlines()
             if line.startswith("Debian Packages ")]
    sources = sorted({(uri, suite) for uri, suite in found if suite.startswith(RELEASE)})
    if not any(suite == RELEASE for _, suite in sources):
        raise ImageError(f"apt knows no source of Debian {RELEASE}; where a registry is within "
                         "reach, any builder builds the Dockerfile")
    return sources


def make_base(buildah: Buildah) -> None:
    if buildah.has(BASE):
        return
    say("making the base from Debian's packages")
    sources = debian_sources()
    mirror = next(uri for uri, suite in sources if suite == RELEASE)
    with tempfile.TemporaryDirectory(prefix="base-", dir=WORK) as folder:
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", RELEASE, folder, mirror)
        base = pathlib.Path(folder)
        lines = [f"deb {uri} {suite} main\n" for uri, suite in sources]
        (base / "etc/apt/sources.list").write_text("".join(lines), encoding="utf-8")
        for cache in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(base / cache)
            (base / cache / "partial").mkdir(parents=True)
        container = buildah("from", "scratch", quiet=True)
        buildah("add", "--quiet", container, folder, "/")
        buildah("config", "--cmd", "/bin/sh", "--env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", container)
        buildah("commit", "--quiet", container, BASE)
        buildah("rm", container, quiet=True)


def make_context(programs: pathlib.Path | None) -> pathlib.Path:
    """The files of the tree, whether committed yet or not, and the programs that are given."""
    context = WORK / "context"
    shutil.rmtree(context, ignore_errors=True)
    for name in git("ls-files", "-z", "-co", "--exclude-standard").split("\0"):
        if name and (ROOT / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, context / name)
    if programs:
        target = context / "build/image/programs"
        target.mkdir(parents=True)
        for program in sorted(programs.glob("allezon-*")):
            shutil.copy2(program, target)
    return context


def build(buildah: Buildah, image: str, of: Commit, options: argparse.Namespace) -> None:
    context = make_context(options.programs)
    say(f"building {image} of {of.revision[:12]}")
    arguments = {"VERSION": version(), "REVISION": of.revision, "CREATED": of.created,
                 "SOURCE": source_url(), "PROGRAMS": "given" if options.programs else "build"}
    buildah("bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--format", "oci",
            "--layers", "--timestamp", str(of.time_s), "--identity-label=false", "--quiet",
            *(["--no-cache"] if options.no_cache else []),
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            "--tag", image, str(context))


def archive(buildah: Buildah, image: str, path: pathlib.Path) -> str:
    """Writes the image as an OCI archive; returns its digest."""
    digest = WORK / "digest"
    path.unlink(missing_ok=True)
    buildah("push", "--quiet", "--format", "oci", "--digestfile", str(digest), image,
            f"oci-archive:{path}:{image}")
    return digest.read_text(encoding="utf-8").strip()


def weigh_and_list(buildah: Buildah, image: str, of: Commit, bom: pathlib.Path) -> int:
    """Writes the SBOM; returns the size of all files, unpacked."""
    container = buildah("from", "--pull-never", image, quiet=True)
    try:
        root = pathlib.Path(buildah("mount", container, quiet=True))
        document = sbom.document(root, version=version(), revision=of.revision, created=of.created)
        bom.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        return sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())
    finally:
        buildah("rm", container, quiet=True)


def push(buildah: Buildah, image: str, options: argparse.Namespace) -> str:
    """Pushes to the registry that --push names; returns NAME@DIGEST."""
    name = options.push if ":" in options.push.rsplit("/", 1)[-1] else f"{options.push}:{version()}"
    verify = f"--tls-verify={'false' if options.plain_http else 'true'}"
    with tempfile.TemporaryDirectory(prefix="push-", dir=WORK) as folder:
        access = []
        user, password = os.environ.get(USER_VARIABLE), os.environ.get(PASSWORD_VARIABLE)
        if user and password:
            access = ["--authfile", f"{folder}/auth.json"]
            buildah("login", *access, verify, "--username", user, "--password-stdin",
                    name.split("/", 1)[0], text=password, quiet=True)
        digest = pathlib.Path(folder) / "digest"
        say(f"pushing {name}")
        buildah("push", "--quiet", *access, verify, "--format", "oci", "--digestfile", str(digest),
                image, f"docker://{name}")
        tagged, _ = name.rsplit(":", 1)
        return f"{tagged}@{digest.read_text(encoding='utf-8').strip()}"


def tell_workflow(**outputs: str) -> None:
    """Gives later steps of a workflow of GitHub what they have to name."""
    path = os.environ.get("GITHUB_OUTPUT")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in outputs.items())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev image", allow_abbrev=False,
                                     description="Builds the container image, with its SBOM.")
    parser.add_argument("--name", default="localhost/allezon", help="of the image (default %(default)s)")
    parser.add_argument("--tag", help="default: the version")
    parser.add_argument("--programs", type=pathlib.Path, metavar="DIR",
                        help="take the programs that were built there, on Debian 12, instead of building")
    parser.add_argument("--no-cache", action="store_true", help="build every stage anew")
    parser.add_argument("--push", metavar="REGISTRY/NAME",
                        help="push it there, as user $ALLEZON_REGISTRY_USER with "
                             "$ALLEZON_REGISTRY_PASSWORD where they are set")
    parser.add_argument("--plain-http", action="store_true", help="the registry speaks no TLS")
    options = parser.parse_args()
    if options.push and "/" not in options.push:
        parser.error(f"--push: '{options.push}' is not REGISTRY/NAME")
    if options.programs and not options.programs.is_dir():
        parser.error(f"--programs: {options.programs} is no folder")
    return options


def main() -> int:
    options = parse_arguments()
    try:
        WORK.mkdir(parents=True, exist_ok=True)
        of = commit()
        image = f"{options.name}:{options.tag or version()}"
        stem = WORK / f"allezon-{options.tag or version()}"
        buildah = Buildah()
        make_base(buildah)
        build(buildah, image, of, options)
        bom = stem.with_name(stem.name + ".spdx.json")
        size_mb = weigh_and_list(buildah, image, of, bom) / 1e6
        packed = stem.with_name(stem.name + ".tar")
        digest = archive(buildah, image, packed)
        print(f"image    {image}\ndigest   {digest}\n"
              f"size     {size_mb:.1f} MB unpacked, {packed.stat().st_size / 1e6:.1f} MB packed\n"
              f"archive  {packed.relative_to(ROOT)}\nsbom     {bom.relative_to(ROOT)}")
        if size_mb > SIZE_MAX_MB:
            raise ImageError(f"the image is {size_mb:.1f} MB, over {SIZE_MAX_MB} MB")
        if options.push:
            pushed = push(buildah, image, options)
            print(f"pushed   {pushed}")
            digest = pushed.rsplit("@", 1)[1]
        tell_workflow(digest=digest, sbom=str(bom.relative_to(ROOT)))
    except (ImageError, sbom.SbomError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
