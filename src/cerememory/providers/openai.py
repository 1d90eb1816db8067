"""OpenAI, and servers that speak its API: chat, embeddings and transcriptions.

Source: OpenAI's API reference (chat completions, embeddings, audio transcriptions).
"""

from __future__ import annotations

from uuid import uuid4

from msgspec import Struct

from cerememory.providers.api import PAYLOAD, Api
from cerememory.providers.chat import EMBEDDED_BYTES_MAX, ChatProvider, Prompt, beginning, vector_of
from cerememory.providers.contract import Cause, Failure, Vector
from cerememory.providers.transport import Body

BASE_URL = "https://api.openai.com/v1"
VERSION = "v1"
CHAT_MODEL = "gpt-4o"
EMBEDDING_MODEL = "text-embedding-3-small"
AUDIO_MODEL = "whisper-1"
AUDIO_MIME = {"mp3": "audio/mpeg"}  # the others are called as their format


class OpenAi(ChatProvider):
    name = "openai"

    def __init__(self, api: Api, chat_model: str | None, *, is_compatible: bool) -> None:
        """`is_compatible` says that another server speaks this API; those know the older name of a field."""
        self._api = api
        self._chat_model = chat_model or CHAT_MODEL
        self._limit = "max_tokens" if is_compatible else "max_completion_tokens"

    async def complete(self, prompt: Prompt) -> str | Failure:
        body: dict[str, object] = {
            "model": self._chat_model,
            self._limit: prompt.tokens_max,
            "messages": [
                {"role": "system", "content": prompt.instructions},
                {"role": "user", "content": _content(prompt)},
            ],
        }
        if prompt.wants_json:
            body["response_format"] = {"type": "json_object"}
        payload = b"" if prompt.image is None else prompt.image.data
        answer = await self._api.post_json("/chat/completions", body, _Completion, payload)
        return answer if isinstance(answer, Failure) else answer.text()

    async def embed_text(self, text: str) -> Vector | Failure:
        body = {"model": EMBEDDING_MODEL, "input": beginning(text, EMBEDDED_BYTES_MAX), "encoding_format": "float"}
        answer = await self._api.post_json("/embeddings", body, _Embeddings)
        return answer if isinstance(answer, Failure) else answer.vector()

    async def embed_image(self, data: bytes, image_format: str) -> Vector | Failure:
        description = await self.describe(data, image_format)
        return description if isinstance(description, Failure) else await self.embed_text(description)

    async def transcribe(self, data: bytes, audio_format: str) -> str | Failure:
        boundary = uuid4().hex
        body = _form(boundary, data, audio_format)
        content_type = f"multipart/form-data; boundary={boundary}"
        answer = await self._api.post("/audio/transcriptions", body, content_type, _Transcript)
        return answer if isinstance(answer, Failure) else answer.text.strip()


def _content(prompt: Prompt) -> object:
    if prompt.image is None:
        return prompt.text
    url = f"data:{prompt.image.mime};base64,{PAYLOAD}"
    return [{"type": "text", "text": prompt.text}, {"type": "image_url", "image_url": {"url": url}}]


def _form(boundary: str, data: bytes, audio_format: str) -> Body:
    """The form of RFC 7578; the file's name tells the service its format."""
    mime = AUDIO_MIME.get(audio_format, f"audio/{audio_format}")
    fields = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("model", AUDIO_MODEL), ("response_format", "json"))
    )
    file = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="cue.{audio_format}"\r\n'
        f"Content-Type: {mime}\r\n\r\n"
    )
    return Body((fields + file).encode(), data, f"\r\n--{boundary}--\r\n".encode())


class _Message(Struct):
    content: str | None = None


class _Choice(Struct):
    message: _Message


class _Completion(Struct):
    choices: list[_Choice]

    def text(self) -> str | Failure:
        if not self.choices or self.choices[0].message.content is None:
            return Failure(Cause.EMPTY, "the answer has no text")
        return self.choices[0].message.content


class _Embedding(Struct):
    embedding: list[float]


class _Embeddings(Struct):
    data: list[_Embedding]

    def vector(self) -> Vector | Failure:
        return vector_of(self.data[0].embedding if self.data else ())


class _Transcript(Struct):
    text: str
