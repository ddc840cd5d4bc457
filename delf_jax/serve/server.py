"""The routes: a page, a JSON API with its description, health and metrics."""

import asyncio
import contextlib
import functools
import ipaddress
import json
import os
import socket
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import uvicorn
from fastapi import (
    FastAPI,
    File,
    Form,
    HTTPException,
    Path,
    Query,
    Request,
    UploadFile,
)
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from starlette.formparsers import MultiPartParser

from delf_jax import __version__
from delf_jax.files import InputError, decode_name
from delf_jax.index.photo_index import Index
from delf_jax.progress import format_count
from delf_jax.report import html
from delf_jax.search import page
from delf_jax.serve import photos
from delf_jax.serve.engine import WHOLE, Box, Engine, Found, NotFound
from delf_jax.serve.guard import Guard, refuse
from delf_jax.serve.worker import Busy, Worker

MOST_BYTES = 32 * 2**20
# Seconds after which somebody who found the queue full may come again.
_WAIT = 2.0
_STATIC = {
    "look.css": "text/css",
    "serve.css": "text/css",
    "viewer.js": "text/javascript",
    "serve.js": "text/javascript",
}

Photo = Annotated[UploadFile, File(description="an image file")]
Top = Annotated[int, Form(ge=1, le=1000, description="results at most")]
Skip = Annotated[int, Form(ge=0, le=1_000_000, description="results to leave out")]
Id = Annotated[str, Path(description="id of the photo, as results name it")]
Side = Annotated[
    int | None,
    Query(description="longer side of a JPEG of it: 160, 320, 640 or 1280"),
]
BoxText = Annotated[
    str,
    Form(
        description="part of the photo to search with: y_min,x_min,y_max,x_max in "
        "parts of its height and width"
    ),
]


def make_app(
    engine: Engine,
    *,
    token: str = "",
    hosts: tuple[str, ...] = (),
    writable: bool = False,
    outside: bool = False,
    waiting: int = 64,
    rate: int = 600,
    most_bytes: int = MOST_BYTES,
) -> FastAPI:
    """The server of an index, to be run by any ASGI server.

    Args:
      writable: photos can be added.
      outside: photos that lie outside of the index's folder are shown.
      waiting: requests that may wait for those before; others are answered by 429.
      token, hosts, rate, most_bytes: as of `Guard`.
    """
    worker, registry = Worker(waiting), CollectorRegistry()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.close)

    app = FastAPI(
        lifespan=lifespan,
        title="delf_jax",
        version=__version__,
        summary="Search an index of photos by a photo.",
        docs_url=None,  # Theirs loads scripts from elsewhere.
        redoc_url=None,
    )
    # In memory: nothing of an upload reaches the disk.
    MultiPartParser.spool_max_size = most_bytes
    gauges: dict[str, tuple[str, Callable[[], float]]] = {
        "delf_jax_waiting": ("Requests that wait", lambda: worker.waiting),
        "delf_jax_photos": ("Photos of the index", lambda: len(engine.index.store)),
    }
    for name, (meaning, value) in gauges.items():
        Gauge(name, meaning, registry=registry).set_function(value)
    link = functools.partial(photos.link, outside=outside)
    _answer_errors(app)
    _add_pages(app, engine, writable)
    _add_search(app, engine, worker, link)
    _add_photos(app, engine, worker, outside)
    if writable:
        _add_adding(app, engine, worker)

    @app.get("/healthz", summary="Whether the server answers")
    def health() -> Response:
        healthy = {"status": "ok", "photos": len(engine.index.store)}
        return _json(healthy | ({"message": engine.problem} if engine.problem else {}))

    @app.get("/metrics", summary="Numbers for Prometheus")
    def metrics() -> Response:
        return PlainTextResponse(generate_latest(registry))

    app.add_middleware(
        Guard,
        token=token,
        hosts=hosts,
        rate=rate,
        most_bytes=most_bytes,
        registry=registry,
    )
    return app


def run(app: FastAPI, listening: socket.socket) -> None:
    """Serves until SIGINT or SIGTERM; what has begun is finished first, for a while."""
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=5, server_header=False
    )
    uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; InputError if the address cannot be had."""
    if not 0 <= port < 65536:
        raise InputError(f"--port={port}: cannot listen there; use 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{host}:{port}: cannot listen there ({reason}); choose another --port or "
            "--host"
        ) from None


def check_writable(index: Index) -> None:
    """InputError if photos cannot be added."""
    if not os.access(index.places.root, os.W_OK):
        raise InputError(
            f"--writable: {index.places.root}, the folder of the index's photos, "
            "cannot be written to"
        )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(InputError)
    async def unusable(request: Request, error: InputError) -> Response:
        return refuse(404 if isinstance(error, NotFound) else 400, str(error))

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        return refuse(429, "too many searches are waiting; try again", _WAIT)


def _add_pages(app: FastAPI, engine: Engine, writable: bool) -> None:
    @app.get("/", include_in_schema=False)
    def search_page() -> HTMLResponse:
        index = engine.index
        return HTMLResponse(
            html.render(
                "serve.html",
                served=True,
                styles=["look.css", "serve.css"],
                scripts=["viewer.js", "serve.js"],
                name=index.directory.resolve().name,
                count=format_count(len(index.store), "photo"),
                note=index.shortfall,
                writable=writable,
            )
        )

    @app.get("/docs", include_in_schema=False)
    def api_page() -> HTMLResponse:
        styles = ["look.css", "serve.css"]
        operations = [*_operations(app.openapi())]
        return HTMLResponse(
            html.render("api.html", served=True, styles=styles, operations=operations)
        )

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in _STATIC:
            raise HTTPException(404)
        headers = {"cache-control": "no-cache"}
        return Response(html.read_source(name), 200, headers, _STATIC[name])


def _operations(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the page of the API says of each operation, from its OpenAPI schema."""
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            fields = {
                each["name"]: each.get("description", each["in"])
                for each in operation.get("parameters", ())
            }
            for body in operation.get("requestBody", {}).get("content", {}).values():
                name = body["schema"]["$ref"].rpartition("/")[2]
                properties = schema["components"]["schemas"][name]["properties"]
                for field, values in properties.items():
                    default = json.dumps(values.get("default", ""))
                    known = "" if default == '""' else f" (default: {default})"
                    fields[field] = values.get("description", "") + known
            yield {
                "path": path,
                "method": method,
                "summary": operation["summary"],
                "description": operation.get("description", ""),
                "fields": fields,
            }


def _add_search(
    app: FastAPI, engine: Engine, worker: Worker, link: Callable[..., Any]
) -> None:
    @app.post("/api/search", summary="Photos of the same place, best first")
    async def search(
        photo: Photo,
        top: Top = 10,
        skip: Skip = 0,
        box: BoxText = "",
        stream: Annotated[
            bool, Form(description="a line of JSON at once, then as it is verified")
        ] = False,
    ) -> Response:
        """Candidates are found by global descriptor; the best hundred are verified.

        A result is confident if more inliers agree than unrelated photos share by
        chance. Its lines are inliers as y, x in the query and y, x in the result, in
        parts of height and width.
        """
        found = _search(engine, worker, await photo.read(), top, skip, box)
        if stream:
            return await _stream(found, lambda each: _to_json(each, skip))
        *_, last = [each async for each in found]
        return _json(_to_json(last, skip))

    @app.post("/search", include_in_schema=False)
    async def search_for_page(
        photo: Photo, top: Top = 10, skip: Skip = 0, box: BoxText = ""
    ) -> Response:
        found = _search(engine, worker, await photo.read(), top, skip, box)
        return await _stream(found, lambda each: _fragment(each, skip, link))

    @app.post("/preview", include_in_schema=False)
    async def preview(photo: Photo) -> Response:
        made = await asyncio.to_thread(photos.preview, await photo.read())
        return Response(made, media_type="image/jpeg")

    @app.post("/api/match", summary="What two photos have in common")
    async def match(
        photo: Photo,
        image: Annotated[str, Form(description="id of a photo of the index")] = "",
        other: Annotated[UploadFile | None, File(description="or its file")] = None,
    ) -> Response:
        """Matches, inliers and the affine map; locations are in pixels."""
        if bool(image) == (other is not None):
            raise InputError("match: give either an image of the index or another file")
        uploads = await photo.read(), await other.read() if other else image
        return _json(await _one(worker, lambda: engine.match(*uploads)))


def _search(
    engine: Engine, worker: Worker, photo: bytes, top: int, skip: int, box: str
) -> AsyncIterator[Found]:
    part = _parse_box(box)
    return worker.submit(lambda: engine.search(photo, top, skip, part))


def _add_photos(app: FastAPI, engine: Engine, worker: Worker, outside: bool) -> None:
    @app.get("/api/image/{image:path}", summary="A photo of the index")
    def image(request: Request, image: Id, side: Side = None) -> Response:
        """The file itself, or a JPEG of it where browsers do not show such files."""
        if side not in (None, *photos.SIDES):
            raise InputError(f"side={side}: expected one of {photos.SIDES}")
        id, headers = _id(request, "image"), {"cache-control": "private, max-age=300"}
        path = photos.find_photo(engine.index, id, outside=outside)
        try:
            kind = photos.media_type(path)
            if side is None and kind is not None:
                return FileResponse(path, headers=headers, media_type=kind)
            made = (
                photos.as_jpeg(path) if side is None else photos.thumbnail(path, side)
            )
        except (InputError, OSError):  # Whose message would name the file.
            raise NotFound(f"{id}: there is no photo any more") from None
        return Response(made, 200, headers, "image/jpeg")

    @app.get("/api/attention/{image:path}", summary="Where the network looks")
    async def attention(request: Request, image: Id) -> Response:
        """A row for each local feature: y, x, size, attention.

        y and x are in parts of height and width, sizes in parts of the longer side.
        """
        rows = await _one(worker, lambda: engine.attention(_id(request, "attention")))
        return _json(rows.round(5).tolist())


def _add_adding(app: FastAPI, engine: Engine, worker: Worker) -> None:
    @app.post("/api/add", summary="Add a photo to the index")
    async def add(photo: Photo) -> Response:
        """It is saved in the folder `added` among the index's photos, then indexed."""
        content, name = await photo.read(), photo.filename or ""
        id = await _one(worker, lambda: engine.add(content, name))
        return _json({"image": id, "photos": len(engine.index.store)})


def _id(request: Request, kind: str) -> str:
    """The id in an address: names of files need not be UTF-8."""
    path = (
        request.scope.get("raw_path") or urllib.parse.quote(request.url.path).encode()
    )
    part = path.partition(f"/api/{kind}/".encode())[2].partition(b"?")[0]
    return decode_name(urllib.parse.unquote_to_bytes(part))


async def _one(worker: Worker, work: Callable[[], Iterator[Any]]) -> Any:
    """The one result of a job."""
    return await anext(worker.submit(work))


async def _stream(
    found: AsyncIterator[Found], format_line: Callable[[Found], dict[str, Any]]
) -> Response:
    """A line of JSON for each; an error before the first is a response of its own."""
    first = await anext(found)

    async def lines() -> AsyncIterator[str]:
        yield json.dumps(format_line(first)) + "\n"
        try:
            async for each in found:
                yield json.dumps(format_line(each)) + "\n"
        except InputError as error:
            yield json.dumps({"detail": str(error)}) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def _to_json(found: Found, skip: int) -> dict[str, Any]:
    return {
        "photos": len(found.searched.store),
        "verified": found.verified,
        "candidates": found.candidates,
        "confident": found.verdict.confident,
        "inliers_by_chance": found.verdict.by_chance,
        "more": found.more,
        "results": [
            {
                "rank": rank,
                "image": result.image,
                "similarity": round(result.similarity, 6),
                "inliers": result.inliers,
                "confident": found.verdict.of(result.inliers),
                "lines": result.lines.round(4).tolist(),
            }
            for rank, result in enumerate(found.results, skip + 1)
        ],
    }


def _fragment(found: Found, skip: int, link: Callable[..., Any]) -> dict[str, Any]:
    """What the page puts in the place of its list, and says beside it."""
    picture = functools.partial(link, found.searched)
    cards = page.format_cards(found.results, found.verdict, picture, skip + 1)
    doubt = page.format_doubt(found.verdict)
    return {
        "html": html.render("found.html", cards=cards, doubt=doubt),
        "verified": found.verified,
        "candidates": found.candidates,
        "more": found.more,
        "photos": format_count(len(found.searched.store), "photo"),
        "note": found.searched.shortfall,
        "attention": [] if found.verified else found.attention.round(5).tolist(),
    }


def _parse_box(text: str) -> Box:
    if not text:
        return WHOLE
    try:
        top, left, bottom, right = map(float, text.split(","))
    except ValueError:
        raise InputError(
            f"box {text!r:.80}: expected y_min,x_min,y_max,x_max"
        ) from None
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise InputError(
            f"box {text!r:.80}: expected parts of height and width, 0 <= min < max <= 1"
        )
    return top, left, bottom, right


def _json(value: Any) -> Response:
    """In ASCII: ids may have bytes that are not UTF-8."""
    return Response(json.dumps(value), media_type="application/json")
