# SPDX-License-Identifier: Apache-2.0
"""The image's bill of materials in SPDX 2.3, made from the image itself: its programs, and the
Debian packages whose records it carries. The same image gives the same document."""

from __future__ import annotations

import hashlib
import pathlib
import re
import uuid

NAMESPACE = uuid.UUID("6f6f6c2e-5a5b-4c0e-9a55-0a11e2000001")


class SbomError(Exception):
    """The image lacks what the document must say."""


def spdx_id(*parts: str) -> str:
    return "SPDXRef-" + "-".join(re.sub(r"[^A-Za-z0-9.]", "-", part) for part in parts)


def fields_of(record: str) -> dict[str, str]:
    """The one-line fields of a record of dpkg."""
    return dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*)$", record, re.MULTILINE))


def debian_package(record: str) -> dict:
    fields = fields_of(record)
    try:
        name, version, arch = fields["Package"], fields["Version"], fields["Architecture"]
        maintainer = fields["Maintainer"]
    except KeyError as error:
        raise SbomError(f"a record of dpkg has no {error}") from None
    encoded = version.replace("+", "%2B").replace(":", "%3A").replace("~", "~")
    return {
        "SPDXID": spdx_id("deb", name), "name": name, "versionInfo": version,
        "supplier": f"Organization: {maintainer.split(' <')[0]}",
        "downloadLocation": "NOASSERTION", "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
            "referenceLocator": f"pkg:deb/debian/{name}@{encoded}?arch={arch}&distro=debian-12"}],
    }


def program_file(path: pathlib.Path, root: pathlib.Path) -> dict:
    content = path.read_bytes()
    return {
        "SPDXID": spdx_id("file", path.name), "fileName": f"./{path.relative_to(root)}",
        "fileTypes": ["BINARY"],
        "checksums": [{"algorithm": name.upper(), "checksumValue": hashlib.new(name, content).hexdigest()}
                      for name in ("sha1", "sha256")],
        "licenseConcluded": "Apache-2.0", "licenseInfoInFiles": ["NOASSERTION"],
        "copyrightText": "NOASSERTION",
    }


def document(root: pathlib.Path, *, version: str, revision: str, created: str) -> dict:
    programs = sorted((root / "usr/bin").glob("allezon-*"))
    records = sorted(path for path in (root / "var/lib/dpkg/status.d").iterdir()
                     if path.suffix != ".md5sums")
    if not programs or not records:
        raise SbomError("the image has no programs, or no records of packages")
    packages = [debian_package(path.read_text(encoding="utf-8")) for path in records]
    files = [program_file(path, root) for path in programs]
    own = {
        "SPDXID": spdx_id("allezon"), "name": "allezon", "versionInfo": version,
        "sourceInfo": f"commit {revision}", "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": "NOASSERTION", "filesAnalyzed": False,
        "licenseConcluded": "Apache-2.0", "licenseDeclared": "Apache-2.0",
        "copyrightText": "NOASSERTION",
    }
    content = "".join(file["checksums"][1]["checksumValue"] for file in files)
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", own["SPDXID"])]
    relations += [(own["SPDXID"], "CONTAINS", item["SPDXID"]) for item in [*files, *packages]]
    return {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"allezon-{version}",
        "documentNamespace": f"urn:uuid:{uuid.uuid5(NAMESPACE, version + revision + content)}",
        "creationInfo": {"created": created, "creators": [f"Tool: allezon-image-{version}"]},
        "packages": [own, *packages], "files": files,
        "relationships": [{"spdxElementId": a, "relationshipType": how, "relatedSpdxElement": b}
                          for a, how, b in relations],
    }
