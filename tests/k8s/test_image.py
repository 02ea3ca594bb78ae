# SPDX-License-Identifier: Apache-2.0
"""How the image is laid out, without building it."""

import hashlib
import json
import pathlib
import re
import sys

import pytest

from chart import ROOT

sys.path.insert(0, str(ROOT / "image"))
import assemble  # noqa: E402
import sbom  # noqa: E402

RECORD = """Package: libexample1
Status: install ok installed
Architecture: amd64
Source: example (1:2.0+dfsg-1)
Version: 1:2.0+dfsg-1+b2
Maintainer: Example Team <team@example.test>
Description: an example
 More of it: not a field
"""


def test_ldd_names_libraries_and_the_loader():
    assert assemble.libraries_of(
        "\tlinux-vdso.so.1 (0x00007ffc0b3c5000)\n"
        "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0000000000)\n"
        "\t/lib64/ld-linux-x86-64.so.2 (0x00007f0000200000)\n") == [
            "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]


@pytest.mark.parametrize("said", ["\tlibz.so.1 => not found\n", "\tstatically linked\n"])
def test_what_ldd_cannot_find_is_an_error(said):
    with pytest.raises(assemble.AssembleError):
        assemble.libraries_of(said)


def test_links_go_along_with_what_they_lead_to(tmp_path):
    interpreter = pathlib.Path(sys.executable)
    library = assemble.libraries_of(assemble.output_of("ldd", str(interpreter)))[0]
    real = assemble.copy_with_links(library, tmp_path)
    assert (tmp_path / real.lstrip("/")).read_bytes() == pathlib.Path(library).read_bytes()
    assert assemble.package_of(real)


def bill(tmp_path):
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status.d").mkdir(parents=True)
    (tmp_path / "usr/bin/allezon-gateway").write_bytes(b"program")
    (tmp_path / "var/lib/dpkg/status.d/libexample1").write_text(RECORD)
    (tmp_path / "var/lib/dpkg/status.d/libexample1.md5sums").write_text("")
    return sbom.document(tmp_path, version="1.2.3", revision="abc", created="2026-01-01T00:00:00Z")


def test_the_sbom_names_packages_and_programs(tmp_path):
    document = bill(tmp_path)
    assert document == json.loads(json.dumps(document))
    (own, package) = document["packages"]
    assert own["versionInfo"] == "1.2.3"
    assert package["externalRefs"][0]["referenceLocator"] == \
        "pkg:deb/debian/libexample1@1%3A2.0%2Bdfsg-1%2Bb2?arch=amd64&distro=debian-12"
    assert package["supplier"] == "Organization: Example Team"
    (program,) = document["files"]
    assert program["checksums"][1]["checksumValue"] == \
        hashlib.sha256(b"program").hexdigest()
    ids = [item["SPDXID"] for item in (*document["packages"], *document["files"])]
    assert len(set(ids)) == 3 and all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", one) for one in ids)
    assert {item["relatedSpdxElement"] for item in document["relationships"]} == set(ids)


def test_the_sbom_of_the_same_image_is_the_same(tmp_path):
    assert bill(tmp_path / "a") == bill(tmp_path / "b")


def test_an_image_without_records_has_no_sbom(tmp_path):
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status.d").mkdir(parents=True)
    with pytest.raises(sbom.SbomError):
        sbom.document(tmp_path, version="1", revision="a", created="2026-01-01T00:00:00Z")


def test_the_image_carries_what_dev_builds_for_it():
    dev = (ROOT / "dev").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^PROGRAMS=\((.*)\)$", dev, re.MULTILINE)
    assert tuple(listed.split()) == assemble.PROGRAMS
