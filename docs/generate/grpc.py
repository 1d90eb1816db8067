"""The methods of the gRPC service, from its descriptors, and the statuses, from the one table of errors."""

from __future__ import annotations

from docs.generate.markdown import code, codes, table
from google.protobuf.descriptor import MethodDescriptor

from cerememory.errors import ANSWERS, StartRefused
from cerememory.grpc.descriptors import CMP, service
from cerememory.grpc.framing import STATUS_NUMBERS
from cerememory.grpc.operations import OPERATIONS
from cerememory.protocol.operations import BY_NAME


def methods() -> str:
    return table(("method", "takes", "answers", "operation", "key"), map(_method, service(CMP).methods))


def _method(rpc: MethodDescriptor) -> tuple[str, ...]:
    operation = BY_NAME[OPERATIONS[rpc.name]]
    takes = _message(rpc.input_type.name, rpc.client_streaming)
    answers = _message(rpc.output_type.name, rpc.server_streaming)
    return code(rpc.name), takes, answers, code(operation.name), operation.needs.role


def _message(name: str, is_stream: bool) -> str:
    return f"stream of {code(name)}" if is_stream else code(name)


def statuses() -> str:
    """Those of the errors of a call, in the order of their numbers."""
    told: dict[str, list[str]] = {}
    for error, answer in ANSWERS.items():
        if not issubclass(error, StartRefused):
            told.setdefault(answer.grpc_status, []).append(answer.code)
    rows = ((str(STATUS_NUMBERS[name]), code(name), codes(sorted({*told[name]}))) for name in _in_order(told))
    return table(("number", "status", "CMP codes"), rows)


def _in_order(names: dict[str, list[str]]) -> list[str]:
    return sorted(names, key=STATUS_NUMBERS.__getitem__)
