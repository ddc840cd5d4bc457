"""What tests of the server share: an index, and a client of its ASGI app."""

import pytest

MISSING = "needs the extra [serve] and httpx2: pip install -e '.[dev]'"


@pytest.fixture
def serve(copied, model, settings):
    """Starts a client of the index at `copied`; keywords are those of `make_app`."""
    for package in ("fastapi", "uvicorn", "multipart", "prometheus_client", "httpx2"):
        pytest.importorskip(package, reason=MISSING)
    from fastapi.testclient import TestClient

    from delf_jax.serve import server
    from delf_jax.serve.engine import Engine

    clients = []

    def start(base_url="http://localhost:8000", **kwargs):
        engine = Engine(copied / "index", model, settings)
        client = TestClient(server.make_app(engine, **kwargs), base_url)
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def photo(copied):
    """The form of an upload: a photo of the index."""
    return {"photo": ("query.jpg", (copied / "photos/a/1.jpg").read_bytes())}
