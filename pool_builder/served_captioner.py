"""Captions from a server that speaks OpenAI's chat completions, such as `vllm serve MODEL`: the same as `Captioner`,
with the model in another environment, and on other machines."""

from __future__ import annotations

import base64
import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from decodetr.utils.hub import without_user

if TYPE_CHECKING:
    from PIL import Image


class ServedCaptioner:
    """
    Attributes: `size`, None: crops are sent as they are.

    Args:
        address (`str`): "MODEL@URL", such as "llava-hf/llava-1.5-7b-hf@http://localhost:8000/v1".
        prompt (`str`), max_new_tokens (`int`): as for `Captioner`.
    """

    size = None

    def __init__(self, address: str, *, prompt: str, max_new_tokens: int) -> None:
        from huggingface_hub import InferenceClient

        self.model, self.url = address.split("@", 1)
        # Never the user's token of the Hub, which the client would send by default.
        self.client = InferenceClient(base_url=self.url, api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"))
        self.prompt, self.max_new_tokens = prompt, max_new_tokens

    def describe(self, crops: list[Image.Image], prepared: list[str] | None = None) -> tuple[list[str], list[bool]]:
        """Captions of n PIL crops, asked for at once, so that the server can batch them.

        Returns:
            (`list[str]` of length n, `list[bool]`: whether each came to its end before the longest length).

        Raises:
            ConnectionError: the server refuses or cannot be reached.
        """
        with ThreadPoolExecutor(max(len(crops), 1)) as pool:
            try:
                pairs = list(pool.map(self._ask, prepared or self.prepare(crops)))
            except Exception as error:  # of the client's transport, another library in other versions of the Hub's
                raise ConnectionError(
                    f"{self.model}@{without_user(self.url)}: the server of captions does not answer: "
                    f"{type(error).__name__}: {without_user(str(error))}"
                ) from error
        return [caption for caption, _ in pairs], [whole for _, whole in pairs]

    def prepare(self, crops: list[Image.Image]) -> list[str]:
        """The crops as they are sent."""
        return [_data_url(crop) for crop in crops]

    def _ask(self, url):
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.prompt}]
        answer = self.client.chat_completion(
            [{"role": "user", "content": content}],
            model=self.model,
            max_tokens=self.max_new_tokens,
            temperature=0.0,
            seed=0,
        ).choices[0]
        return " ".join((answer.message.content or "").split()), answer.finish_reason != "length"


def _data_url(crop):
    stream = io.BytesIO()
    crop.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
