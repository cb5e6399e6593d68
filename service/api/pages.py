"""The web pages: `/`, which tries an image, and `/docs`, Swagger UI for the OpenAPI document; and that document.

Neither needs another host: Swagger UI's files come from an installed package, everything else from `service.ui`. The
pages have no inline scripts or styles, so that the Content-Security-Policy can forbid them: a browser runs only files
of this service.
"""

import hashlib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

router = APIRouter(tags=["operations"])

_OWN = ("service.ui", "")
_SWAGGER = ("fastapi_swagger", "resources/")

#: Images to try; `loadtest.samples` draws them.
_SAMPLES = ("sample-ladybird.jpg", "sample-coffee.jpg", "sample-fence.jpg", "sample-road.jpg")

_SCRIPTS = ("page", "service", "options", "result", "maps", "experiments")

#: All files that the pages load: package, folder and media type. No other file is served.
ASSETS: dict[str, tuple[tuple[str, str], str]] = {
    "icon.svg": (_OWN, "image/svg+xml"),
    "page.css": (_OWN, "text/css"),
    **{f"{name}.js": (_OWN, "text/javascript") for name in _SCRIPTS},
    **dict.fromkeys(_SAMPLES, (_OWN, "image/jpeg")),
    "docs.css": (_OWN, "text/css"),
    "docs.js": (_OWN, "text/javascript"),
    "swagger-ui.css": (_SWAGGER, "text/css"),
    "swagger-ui-bundle.js": (_SWAGGER, "text/javascript"),
}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{styles}; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


@router.get("/", summary="The web page of this service", response_class=HTMLResponse)
async def index() -> HTMLResponse:
    """Returns a page that runs both variants on an image, and lists the endpoints."""
    return _page("index.html", _POLICY.format(styles=""))


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """The OpenAPI document in Swagger UI, which writes `style` attributes."""
    return _page("docs.html", _POLICY.format(styles=" 'unsafe-inline'"))


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> JSONResponse:
    """The OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/ui/{name}", include_in_schema=False)
def asset(request: Request, name: Annotated[str, Path()]) -> Response:
    """A file of the pages, or 304 if the browser's copy is current."""
    if name not in ASSETS:
        raise HTTPException(404)
    (package, folder), media_type = ASSETS[name]
    content = _file(package, folder + name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "cache-control": "max-age=600", "etag": tag}
    known = {each.strip().removeprefix("W/") for each in ",".join(request.headers.getlist("if-none-match")).split(",")}
    if known & {tag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def _page(name: str, policy: str) -> HTMLResponse:
    content = _file("service.ui", name).read_text(encoding="utf-8")
    return HTMLResponse(content, headers={**_HEADERS, "content-security-policy": policy})


def _file(package: str, name: str) -> Traversable:
    return resources.files(package).joinpath(name)
