#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`./dev release`: what a release needs besides image and chart.

check TAG            the tag is the version's, and the changelog has notes of it
notes                prints them
publish TAG FILE...  makes the release on GitHub with them and the files, as $GITHUB_TOKEN may"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

from manifests import ROOT, project_version

TIMEOUT_S = 60


class ReleaseError(Exception):
    """There is no release; the message says why."""


def notes(changelog: str, version: str) -> str:
    """The changelog's section of the version."""
    match = re.search(rf"^## {re.escape(version)}(?: \(([^)\n]*)\))?\n(.*?)(?=^## |\Z)", changelog,
                      re.MULTILINE | re.DOTALL)
    if not match or not match[2].strip():
        raise ReleaseError(f"CHANGELOG.md has no notes of {version}")
    if match[1] == "unreleased":
        raise ReleaseError(f"CHANGELOG.md says that {version} is unreleased: give it its date")
    return match[2].strip() + "\n"


def check(tag: str) -> str:
    version = project_version()
    if tag != f"v{version}":
        raise ReleaseError(f"the tag {tag} is not v{version}, the version of CMakeLists.txt")
    return notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)


def variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise ReleaseError(f"${name} is not set")
    return value


def call(url: str, body: bytes, content_type: str, method: str = "POST") -> dict:
    request = urllib.request.Request(url, data=body, method=method, headers={
        "Authorization": f"Bearer {variable('GITHUB_TOKEN')}", "Content-Type": content_type,
        "Accept": "application/vnd.github+json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ReleaseError(f"GitHub answered {error.code}: {error.read(500).decode(errors='replace')}") from None
    except urllib.error.URLError as error:
        raise ReleaseError(f"GitHub cannot be reached: {error.reason}") from None


def publish(tag: str, files: list[pathlib.Path]) -> str:
    """Returns where the release is. It is a draft until all files are there."""
    text = check(tag)
    for file in files:
        if not file.is_file():
            raise ReleaseError(f"there is no file {file}")
    base = f"{variable('GITHUB_API_URL')}/repos/{variable('GITHUB_REPOSITORY')}/releases"
    made = call(base, json.dumps({"tag_name": tag, "name": tag, "body": text, "draft": True}).encode(),
                "application/json")
    upload = made["upload_url"].split("{")[0]
    for file in files:
        call(f"{upload}?name={urllib.parse.quote(file.name)}", file.read_bytes(),
             "application/octet-stream")
    return call(f"{base}/{made['id']}", json.dumps({"draft": False}).encode(), "application/json",
                "PATCH")["html_url"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev release", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check").add_argument("tag")
    commands.add_parser("notes")
    publishing = commands.add_parser("publish")
    publishing.add_argument("tag")
    publishing.add_argument("files", type=pathlib.Path, nargs="*")
    options = parser.parse_args()
    try:
        if options.command == "check":
            check(options.tag)
        elif options.command == "notes":
            print(notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), project_version()), end="")
        else:
            print(publish(options.tag, options.files))
    except (ReleaseError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
