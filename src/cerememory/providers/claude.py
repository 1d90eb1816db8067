"""Anthropic's Claude: summaries and relations. It embeds nothing, and hears nothing.

Source: Anthropic's API reference (messages).
"""

from __future__ import annotations

from msgspec import Struct

from cerememory.providers.api import Api
from cerememory.providers.chat import ChatProvider, Prompt
from cerememory.providers.contract import Cause, Failure

BASE_URL = "https://api.anthropic.com/v1"
VERSION = "v1"
API_VERSION = "2023-06-01"
CHAT_MODEL = "claude-sonnet-4-20250514"


class Claude(ChatProvider):
    name = "claude"
    embed_text: None = None
    embed_image: None = None
    transcribe: None = None

    def __init__(self, api: Api, chat_model: str | None) -> None:
        self._api = api
        self._chat_model = chat_model or CHAT_MODEL

    async def complete(self, prompt: Prompt) -> str | Failure:
        body = {
            "model": self._chat_model,
            "max_tokens": prompt.tokens_max,
            "system": prompt.instructions,
            "messages": [{"role": "user", "content": prompt.text}],
        }
        answer = await self._api.post_json("/messages", body, _Message)
        return answer if isinstance(answer, Failure) else answer.text()


class _Block(Struct):
    type: str
    text: str = ""


class _Message(Struct):
    content: list[_Block]

    def text(self) -> str | Failure:
        """All its text blocks; there are others, such as what the model thought."""
        texts = [block.text for block in self.content if block.type == "text"]
        return "".join(texts) if texts else Failure(Cause.EMPTY, "the answer has no text")
