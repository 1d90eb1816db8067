"""The standard reflection service: which services and messages there are, for clients without the .proto file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cerememory.grpc.descriptors import REFLECTIONS, SERVICES, file_called, file_with, messages_of, service
from cerememory.grpc.framing import STATUS_NUMBERS
from cerememory.grpc.rpc import Method, Rpc
from cerememory.http.exchange import Headers
from cerememory.protocol.access import READ


class Reflection:
    def methods(self) -> Iterator[Method]:
        for name in REFLECTIONS:
            (rpc,) = service(name).methods
            yield Method(f"{name}/{rpc.name}", *messages_of(rpc), self._tell, READ)

    async def _tell(self, rpc: Rpc) -> Headers:
        """An answer for each question, as long as the client has some."""
        while (request := await rpc.next()) is not None:
            reply = rpc.method.reply(valid_host=request.host, original_request=request)
            try:
                _fill(reply, request)
            except KeyError as error:
                reply.error_response.error_code = STATUS_NUMBERS["NOT_FOUND"]
                reply.error_response.error_message = f"{str(error)[:128]}: is none of this daemon's"
            await rpc.send(reply)
        return []


def _fill(reply: Any, request: Any) -> None:
    """Raises `KeyError` for what isn't there."""
    asked = request.WhichOneof("message_request")
    if asked == "list_services":
        for name in SERVICES:
            reply.list_services_response.service.add(name=name)
    elif asked == "file_by_filename":
        _add_file(reply, file_called(request.file_by_filename))
    elif asked == "file_containing_symbol":
        _add_file(reply, file_with(request.file_containing_symbol))
    elif asked == "all_extension_numbers_of_type":  # there are none
        file_with(request.all_extension_numbers_of_type)
        reply.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
    else:
        raise KeyError(asked or "message_request")


def _add_file(reply: Any, file: Any) -> None:
    """No file here imports another one, so it is whole by itself."""
    reply.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
