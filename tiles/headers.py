"""What an answer says about how long it stays true: ETag and 304, or for ever where its version is named."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from fastapi import Request, Response

FOREVER = "public, max-age=31536000, immutable"
MINUTES = "public, max-age=300"
SHORT = "public, max-age=60"  # lists and descriptions: new maps should show soon


def digest(*parts: str | bytes) -> str:
    """16 hexadecimal digits that change with any part."""
    total = blake2b(digest_size=8)
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else part)
        total.update(b"\0")
    return total.hexdigest()


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names an ETag, weakly compared (RFC 9110, 13.1.2)."""
    if not if_none_match:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag.removeprefix("W/") in tags


def kept(
    request: Request, body: bytes, media_type: str, *, forever: bool = False, keep: str = SHORT
) -> Response:
    """An answer with an ETag, or 304 where the client has it already.

    The tag is weak, because the answer may be compressed on the way.

    Args:
        request: What was asked.
        body: The answer.
        media_type: Its type.
        forever: Whether the address names the version of what it gives.
        keep: Cache-Control where it does not.
    """
    etag = f'W/"{digest(body)}"'
    headers = {"ETag": etag, "Cache-Control": FOREVER if forever else keep}
    if is_known(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


def kept_json(
    request: Request,
    content: Mapping[str, Any],
    *,
    forever: bool = False,
    media_type: str = "application/json",
) -> Response:
    """A JSON answer with an ETag, or 304; NaN becomes null."""
    return kept(request, to_json(content), media_type, forever=forever)


def to_json(content: Any) -> bytes:
    """Compact JSON in UTF-8 with null for NaN and infinity, which JSON does not have."""
    try:
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
    except ValueError:
        text = json.dumps(_finite(content), ensure_ascii=False, separators=(",", ":"), default=_plain)
    return text.encode()


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's."""
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    raise TypeError(f"{type(value).__name__} is no JSON value")
