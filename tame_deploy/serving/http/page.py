"""The page at /: its files, and the headers that keep them from reaching anywhere else."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

__all__ = ["page_routes"]

_FOLDER = Path(__file__).parent.parent / "page"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("page", "drawing", "drops", "elements", "samples", "server", "words")
    },
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}
_SAMPLES = Path(__file__).parents[2] / "data" / "pictures"
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes() -> list[Route]:
    """Return the routes of the page and its sample pictures; they need no token."""
    found = [_route(path, _FOLDER / name, kind) for path, (name, kind) in _FILES.items()]
    samples = sorted(_SAMPLES.glob("*.png"))
    found += [_route(f"/samples/{path.name}", path, "image/png") for path in samples]
    return [*found, _list_route([path.name for path in samples])]


def _route(path: str, file: Path, kind: str) -> Route:
    async def give(_request: Request) -> Response:
        return Response(file.read_bytes(), media_type=kind, headers=_HEADERS)

    return Route(path, give, methods=["GET"])


def _list_route(samples: list[str]) -> Route:
    """Return the route that tells the page which samples there are."""

    async def give(_request: Request) -> Response:
        return JSONResponse({"samples": samples}, headers=_HEADERS)

    return Route("/page.json", give, methods=["GET"])
