# SPDX-License-Identifier: Apache-2.0
"""gRPC from the .proto files of the tree, compiled by protoc when the tests start."""

import importlib
import pathlib
import subprocess
import sys
import types

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

from harness.environment import ROOT, scaled

HEALTH = "grpc.health.v1.Health"


class Protos:
    """`messages`: every message and enum value of allezon.v1 (messages.Tag, messages.ACTION_BUY).
    `services`: descriptors by full name. Others by module("google/rpc/error_details")."""

    def __init__(self, out_dir: pathlib.Path):
        proto_dir = ROOT / "proto"
        files = sorted(str(path.relative_to(proto_dir)) for path in proto_dir.rglob("*.proto"))
        subprocess.run(["protoc", f"--proto_path={proto_dir}", f"--python_out={out_dir}", *files],
                       check=True)
        # google/ is a package that Debian's protobuf owns: ours joins its path.
        sys.path.insert(0, str(out_dir))
        import google
        google.__path__.append(str(out_dir / "google"))
        self._modules = {file.removesuffix(".proto"): importlib.import_module(
            file.removesuffix(".proto").replace("/", ".") + "_pb2") for file in files}
        self.messages = types.SimpleNamespace()
        self.services = {}
        for name, module in self._modules.items():
            if name.startswith("allezon/"):
                for key, value in vars(module).items():
                    if not key.startswith("_") and key != "DESCRIPTOR":
                        setattr(self.messages, key, value)
            for service in module.DESCRIPTOR.services_by_name.values():
                self.services[service.full_name] = service
        self._add_health()

    def module(self, name: str):
        return self._modules[name]

    def _add_health(self):
        # grpc.health.v1, which no package of Debian has for Python.
        field = descriptor_pb2.FieldDescriptorProto
        file = descriptor_pb2.FileDescriptorProto(name="grpc/health/v1/health.proto",
                                                  package="grpc.health.v1", syntax="proto3")
        file.message_type.add(name="HealthCheckRequest").field.add(
            name="service", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
        response = file.message_type.add(name="HealthCheckResponse")
        response.field.add(name="status", number=1, type=field.TYPE_ENUM, label=field.LABEL_OPTIONAL,
                           type_name=".grpc.health.v1.HealthCheckResponse.ServingStatus")
        status = response.enum_type.add(name="ServingStatus")
        for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
            status.value.add(name=name, number=number)
        file.service.add(name="Health").method.add(
            name="Check", input_type=".grpc.health.v1.HealthCheckRequest",
            output_type=".grpc.health.v1.HealthCheckResponse")
        pool = descriptor_pool.Default()
        pool.Add(file)
        self.services[HEALTH] = pool.FindServiceByName(HEALTH)


class GrpcNode:
    """A channel to one node."""

    def __init__(self, address: str, protos: Protos, timeout_s: float = 10.0):
        self.address, self.protos, self.timeout_s = address, protos, timeout_s
        # A channel of its own even where the address is the same, and quick to try again after a
        # node was restarted.
        self._channel = grpc.insecure_channel(address, options=[
            ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500)])

    def close(self):
        self._channel.close()

    def call(self, method: str, request, timeout_s: float = None, metadata=None):
        """method: "allezon.v1.ProfileService/GetProfile", or without the package. `request`: the
        message, or a dict of its fields. grpc.RpcError with .code() and .details() on an error."""
        service_name, _, method_name = method.partition("/")
        if "." not in service_name:
            service_name = f"allezon.v1.{service_name}"
        descriptor = self.protos.services[service_name].methods_by_name[method_name]
        input_class = message_factory.MessageFactory().GetPrototype(descriptor.input_type)
        output_class = message_factory.MessageFactory().GetPrototype(descriptor.output_type)
        if isinstance(request, dict):
            request = input_class(**request)
        stub = self._channel.unary_unary(f"/{service_name}/{method_name}",
                                         request_serializer=lambda m: m.SerializeToString(),
                                         response_deserializer=output_class.FromString)
        return stub(request, timeout=scaled(timeout_s or self.timeout_s), metadata=metadata)

    def health(self, service: str = "") -> str:
        """SERVING, NOT_SERVING, or the name of the status code where the call failed."""
        try:
            answer = self.call(f"{HEALTH}/Check", {"service": service})
        except grpc.RpcError as error:
            return error.code().name
        return ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")[answer.status]


def error_details(error: grpc.RpcError, protos: Protos) -> list:
    """The google.rpc details of an error (BadRequest, RetryInfo, …), unpacked."""
    module = protos.module("google/rpc/error_details")
    details = []
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in module.Status.FromString(value).details:
                assert isinstance(packed, any_pb2.Any)
                message = getattr(module, packed.type_url.rpartition(".")[2])()
                assert packed.Unpack(message), packed.type_url
                details.append(message)
    return details
