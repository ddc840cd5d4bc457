"""A server of this machine, with its faults."""

import contextlib
import http.server
import re
import threading

from delf_jax.data import download

CONTENT = bytes(range(256)) * 1000


class Server:
    """Its files, its faults, and the requests so far."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.ranges = True  # whether it honours Range.
        self.tag = '"1"'
        self.length: str | None = None  # what it says instead of the length.
        self.kind = "application/octet-stream"
        self.moved: dict[str, str] = {}  # where it redirects to.
        self.breaks: list[int] = []  # after so many bytes it hangs up, once each.
        self.requests: list[tuple[str, str | None]] = []
        self.url = ""


@contextlib.contextmanager
def serve(monkeypatch):
    """A server on this machine; downloads make one attempt and no pause."""
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            if self.path in state.moved:
                self.send_response(302)
                self.send_header("Location", state.moved[self.path])
                self.end_headers()
                return
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = 0
            if wanted and state.ranges and self.headers["If-Range"] == state.tag:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content) and start:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                where = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", where)
            length = state.length or str(len(content) - start)
            self.send_header("Content-Length", length)
            self.send_header("Content-Type", state.kind)
            if state.tag:
                self.send_header("ETag", state.tag)
            self.end_headers()
            hangs_up = state.breaks and self.path == "/a.bin"
            end = start + state.breaks.pop(0) if hangs_up else None
            self.wfile.write(content[start:end])

        def log_message(self, *_):
            pass

    monkeypatch.setattr(download, "_PAUSE", 0.0)
    monkeypatch.setattr(download, "_ATTEMPTS", 1)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield state
        running.shutdown()
        thread.join()
