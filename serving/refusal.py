"""A request that is not answered."""

from __future__ import annotations

GONE = 499  # of a client that did not wait, as others say it


class Refusal(Exception):
    """
    What is wrong with a request, or with the moment, and what to do.

    Args:
        status (int): of HTTP. message (str): for the client, as {"detail": message}.
        headers (dict, *optional*): of the answer, such as Retry-After.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}
