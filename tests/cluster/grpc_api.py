# SPDX-License-Identifier: Apache-2.0
"""The gRPC surface as another team's client would use it: messages compiled from proto/, calls by full method name."""

import functools
import importlib
import pathlib
import re
import subprocess
import sys
import tempfile

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEADLINE_S = 20


@functools.cache
def _compiled():
    folder = tempfile.TemporaryDirectory(prefix="allezon-proto-")
    protos = sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto" / "allezon").rglob("*.proto"))
    subprocess.run(["protoc", f"--proto_path={ROOT / 'proto'}", f"--python_out={folder.name}", *protos], check=True)
    health = pathlib.Path("/usr/share/grpc-proto")
    subprocess.run(["protoc", f"--proto_path={health}", f"--python_out={folder.name}", "grpc/health/v1/health.proto"],
                   check=True)
    sys.path.insert(0, folder.name)
    return folder


def messages(name):
    """The generated module of allezon/v1/<name>.proto."""
    _compiled()
    return importlib.import_module(f"allezon.v1.{name}_pb2")


@functools.cache
def version():
    """Of the programs that are built from this tree, and so of the calls made here."""
    return re.search(r"^project\(allezon VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)[1]


def identity(service, id_, cluster="allezon", version_=None):
    """The allezon.v1.NodeIdentity of a node: whom an inner call is for, by a caller of that version."""
    return messages("identity").NodeIdentity(cluster=cluster, service=service, instance=id_,
                                             version=version() if version_ is None else version_)


def health_messages():
    # Not under the package grpc, which is the library's own.
    folder = pathlib.Path(_compiled().name) / "grpc/health/v1"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module("health_pb2")


def call(address, method, request, response_type, timeout_s=DEADLINE_S):
    """One unary call; raises grpc.RpcError."""
    with grpc.insecure_channel(address) as channel:
        stub = channel.unary_unary(f"/{method}", request_serializer=lambda m: m.SerializeToString(),
                                   response_deserializer=response_type.FromString)
        return stub(request, timeout=timeout_s)


def violations(error):
    """[(field, description)] of the google.rpc.BadRequest that came with an error; decoded by hand, since its Python
    messages are in no package of Debian's."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            found = []
            for detail in _fields(value, 3):
                type_url, = _fields(detail, 1)
                if type_url == b"type.googleapis.com/google.rpc.BadRequest":
                    bad_request, = _fields(detail, 2)
                    for violation in _fields(bad_request, 1):
                        found.append((_fields(violation, 1)[0].decode(), _fields(violation, 2)[0].decode()))
            return found
    return []


def _varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 0x80:
            return value, at


def _fields(data, number):
    """The length-delimited fields of this number in an encoded message."""
    found, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 2:
            size, at = _varint(data, at)
            if tag >> 3 == number:
                found.append(data[at:at + size])
            at += size
        else:
            assert tag & 7 == 0, "no such field in these messages"
            _, at = _varint(data, at)
    return found
