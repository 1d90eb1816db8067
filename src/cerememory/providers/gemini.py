"""Google's Gemini: chat and embeddings.

Source: the Gemini API reference, v1beta (models.generateContent, models.embedContent).
"""

from __future__ import annotations

from urllib.parse import quote

from msgspec import Struct

from cerememory.providers.api import PAYLOAD, Api
from cerememory.providers.chat import EMBEDDED_BYTES_MAX, ChatProvider, Prompt, beginning, vector_of
from cerememory.providers.contract import Cause, Failure, Vector

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
VERSION = "v1beta"
CHAT_MODEL = "gemini-2.0-flash"
EMBEDDING_MODEL = "text-embedding-004"


class Gemini(ChatProvider):
    name = "gemini"
    transcribe: None = None

    def __init__(self, api: Api, chat_model: str | None) -> None:
        self._api = api
        self._chat_model = quote(chat_model or CHAT_MODEL, safe="")

    async def complete(self, prompt: Prompt) -> str | Failure:
        config: dict[str, object] = {"maxOutputTokens": prompt.tokens_max}
        if prompt.wants_json:
            config["responseMimeType"] = "application/json"
        body = {
            "systemInstruction": {"parts": [{"text": prompt.instructions}]},
            "contents": [{"role": "user", "parts": _parts(prompt)}],
            "generationConfig": config,
        }
        payload = b"" if prompt.image is None else prompt.image.data
        path = f"/models/{self._chat_model}:generateContent"
        answer = await self._api.post_json(path, body, _Generated, payload)
        return answer if isinstance(answer, Failure) else answer.text()

    async def embed_text(self, text: str) -> Vector | Failure:
        content = {"parts": [{"text": beginning(text, EMBEDDED_BYTES_MAX)}]}
        body = {"model": f"models/{EMBEDDING_MODEL}", "content": content}
        answer = await self._api.post_json(f"/models/{EMBEDDING_MODEL}:embedContent", body, _Embedded)
        return answer if isinstance(answer, Failure) else vector_of(answer.embedding.values)

    async def embed_image(self, data: bytes, image_format: str) -> Vector | Failure:
        description = await self.describe(data, image_format)
        return description if isinstance(description, Failure) else await self.embed_text(description)


def _parts(prompt: Prompt) -> list[dict[str, object]]:
    parts: list[dict[str, object]] = [{"text": prompt.text}]
    if prompt.image is not None:
        parts.append({"inlineData": {"mimeType": prompt.image.mime, "data": PAYLOAD}})
    return parts


class _Part(Struct, frozen=True):
    text: str = ""


class _Content(Struct, frozen=True):
    parts: tuple[_Part, ...] = ()


class _Candidate(Struct):
    content: _Content = _Content()


class _Generated(Struct):
    """`candidates` is missing from an answer that was withheld."""

    candidates: list[_Candidate] = []

    def text(self) -> str | Failure:
        texts = [part.text for candidate in self.candidates[:1] for part in candidate.content.parts]
        return "".join(texts) if any(texts) else Failure(Cause.EMPTY, "the answer has no text")


class _Values(Struct):
    values: list[float]


class _Embedded(Struct):
    embedding: _Values
