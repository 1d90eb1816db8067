"""The services and messages that are spoken here, as the .proto files beside this module declare them.

`services.binpb` is what protoc makes of them (`make proto`; a test compares). Their pool is our own: whoever has
another health or reflection protocol in the same process has no conflict with it. The classes of messages are made
while the daemon starts, so the type checker takes them for `Any`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from cerememory.errors import ValidationFailed

CMP, HEALTH = "cerememory.v1.CerememoryService", "grpc.health.v1.Health"
REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
SERVICES = (CMP, HEALTH, *REFLECTIONS)
COMPILED = Path(__file__).with_name("services.binpb")


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(COMPILED.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL = _pool()


def message(name: str) -> Any:
    """The class of the messages called `name`, with its package."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))


def service(name: str) -> ServiceDescriptor:
    found: ServiceDescriptor = POOL.FindServiceByName(name)
    return found


def messages_of(rpc: MethodDescriptor) -> tuple[Any, Any]:
    """The classes of its requests and its answers."""
    return GetMessageClass(rpc.input_type), GetMessageClass(rpc.output_type)


def file_called(name: str) -> FileDescriptor:
    """Raises `KeyError`."""
    found: FileDescriptor = POOL.FindFileByName(name)
    return found


def file_with(symbol: str) -> FileDescriptor:
    """The one that declares `symbol`, a full name. Raises `KeyError`."""
    found: FileDescriptor
    try:
        found = POOL.FindFileContainingSymbol(symbol)
    except KeyError:  # protobuf takes no method for a symbol
        found = POOL.FindMethodByName(symbol).containing_service.file
    return found


def parse(kind: Any, data: bytes) -> Any:
    """`data` as a message of the class `kind`, or `ValidationFailed`."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise ValidationFailed(f"message: not readable as {kind.DESCRIPTOR.full_name}") from None
