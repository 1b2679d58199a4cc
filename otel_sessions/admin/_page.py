"""The page of the admin API: three files, which hold no data and need no token.

The browser loads the page, asks for the token, and calls the API as any other client does. The policy of the page lets
the browser load scripts, styles and data from this address only.
"""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Response

PATHS: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""The file and the media type of each path. Everybody may have them."""
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def page() -> APIRouter:
    """Return the routes of the page, which are no part of the API's description."""
    router = APIRouter(include_in_schema=False)
    for path, (name, media_type) in PATHS.items():
        _serve(router, path, Path(__file__).with_name("page").joinpath(name).read_bytes(), media_type)
    return router


def _serve(router: APIRouter, path: str, content: bytes, media_type: str) -> None:
    @router.get(path)
    async def file() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)
