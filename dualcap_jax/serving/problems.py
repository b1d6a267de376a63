"""Errors as RFC 9457 tells them: application/problem+json."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response


class Problem(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        detail: what is wrong with which value, and what to do.
        headers: to send with it.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})

    def response(self) -> Response:
        """It as a response."""
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return Response(json.dumps(body), self.status, self.headers, "application/problem+json")


def busy(detail: str, status: int = HTTPStatus.TOO_MANY_REQUESTS, seconds: int = 1) -> Problem:
    """A request that may be sent again after so many seconds."""
    return Problem(status, f"{detail}; try again in {seconds} s", {"Retry-After": str(seconds)})
