"""Error answers: RFC 9457, ``application/problem+json``."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 - the field's word for it
    """Ends a request with this status."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        problems: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """``problems``: one sentence for each fault; ``more``: further members."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.problems = tuple(problems)
        self.headers = dict(headers or {})
        self.more = more

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.problems:
            found["problems"] = list(self.problems)
        return found | self.more
