"""How fast the served page answers, and what memory many clients take.

    python benchmarks/serve.py [PHOTOS] [--size=10000] [--clients=50] [--seconds=60]

The photos of a folder, by default drawn ones, are indexed with the bundled model; their
features, each time a little different, fill an index of `--size`. `serve` runs on that
in a process of its own. Printed are the seconds from its start to the first answer, the
searches of one client, then those of many at once, each of which searches again once it
has an answer, with the memory of the server after each tenth of the time: its own, and
that of mapped files, which the system takes back when it is short of it. In the end it
is killed, and started again.
"""

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import numpy as np

from delf_jax.extraction.model_folder import load_model
from delf_jax.extraction.settings import settings_for
from delf_jax.image_files import find_images
from delf_jax.images import encode_jpeg
from delf_jax.index import photo_index
from delf_jax.manifests import write_manifest
from delf_jax.runtime import enable_compilation_cache
from delf_jax.store import feature_store
from delf_jax.store.shards import Record
from delf_jax.store.writer import Writer, begin, finish
from delf_jax.synthetic import landmarks

DRAWN, SIDES = 12, (384, 288)
NOISE = 0.02
ONE_CLIENT = 20  # searches
BOUNDARY = "b" * 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="?", help="a folder (default: drawn)")
    parser.add_argument("--size", type=int, default=10_000, help="photos of the index")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    enable_compilation_cache()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        photos = pathlib.Path(options.photos or draw_photos(root / "photos"))
        index = fill_index(root, photos, options.size)
        uploads = [path.read_bytes() for _, path in find_images([photos])[:DRAWN]]
        measure(index, uploads, options.clients, options.seconds)


def draw_photos(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    for number in range(DRAWN):
        landmark = landmarks.draw_landmark(landmarks.HELD_OUT + number)
        view = landmarks.draw_view(landmark, 0, SIDES)
        (folder / f"{number}.jpg").write_bytes(encode_jpeg(view.image, 90))
    return folder


def fill_index(root: pathlib.Path, photos: pathlib.Path, size: int) -> pathlib.Path:
    """An index of as many photos; ids are the photos' with numbers before them."""
    model = load_model()
    settings = settings_for(model)
    photo_index.make_index([photos], root / "small", model, settings)
    small = photo_index.open_index(root / "small")
    manifest = feature_store.manifest_for(model, settings)
    store, rng = root / "index" / "store", np.random.default_rng(0)
    begin(store, manifest)
    writer = Writer(store, manifest["key"], [])
    outside = {}
    for number in range(size):
        features = small.store[number % len(small.store)]
        noise = NOISE * rng.standard_normal(len(features.global_descriptor))
        descriptor = features.global_descriptor + noise
        descriptor = (descriptor / np.linalg.norm(descriptor)).astype(np.float32)
        id = f"{number:05d}.jpg"
        outside[id] = str(small.file(features.image))
        writer.add(
            Record(id, 1, "extracted"), features._replace(global_descriptor=descriptor)
        )
    writer.flush()
    finish(store, writer, alone=True)
    places = {"format": 1, "root": str(photos.resolve()), "outside": outside}
    write_manifest(root / "index" / "index.json", places)
    return root / "index"


def measure(
    index: pathlib.Path, uploads: list[bytes], clients: int, seconds: float
) -> None:
    with serving(index, uploads[0]) as (server, port):
        times = [ask(port, u) for u in (uploads * ONE_CLIENT)[: ONE_CLIENT + 5]][5:]
        print(f"one client:  {describe(times)}, {memory(server)}")
        press(server, port, uploads, clients, seconds)
        server.kill()
    print("killed, and started again:")
    with serving(index, uploads[0]):
        pass


@contextlib.contextmanager
def serving(
    index: pathlib.Path, upload: bytes
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server that has answered once, and its port."""
    start = time.perf_counter()
    command = [sys.executable, "main.py", "serve", f"--index={index}", "--port=0"]
    with subprocess.Popen(
        [*command, "--rate=0"], stdout=subprocess.PIPE, text=True, cwd=_root()
    ) as server:
        try:
            assert server.stdout is not None
            lines = iter(server.stdout.readline, "")
            port = next(int(m[1]) for x in lines if (m := re.search(r":(\d+)/$", x)))
            ready = time.perf_counter() - start
            first, last = ask(port, upload)
            print(
                f"from the start: ready {ready:.1f} s, candidates "
                f"{ready + first:.1f} s, verified {ready + last:.1f} s"
            )
            yield server, port
        finally:
            server.terminate()


def press(
    server: subprocess.Popen[str],
    port: int,
    uploads: list[bytes],
    clients: int,
    seconds: float,
) -> None:
    """Many clients at once, for a while."""
    end, times = time.perf_counter() + seconds, list[tuple[float, float]]()
    errors = list[str]()

    def run(number: int) -> None:
        while time.perf_counter() < end:
            try:
                times.append(ask(port, uploads[number % len(uploads)]))
            except (OSError, AssertionError) as error:
                errors.append(str(error))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    held = []
    for _ in range(10):
        time.sleep(seconds / 10)
        held.append(memory(server))
    for thread in threads:
        thread.join()
    print(f"{clients} clients: {describe(times)}, {len(errors)} errors {errors[:1]}")
    print(f"memory: {', '.join(held)}")


def ask(port: int, photo: bytes) -> tuple[float, float]:
    """Seconds to the candidates, and to all verified; AssertionError without them."""
    head = 'Content-Disposition: form-data; name="photo"; filename="photo.jpg"'
    parts = ['Content-Disposition: form-data; name="stream"', "", "true"]
    parts += [f"--{BOUNDARY}", head, "Content-Type: image/jpeg", "", ""]
    text = "\r\n".join([f"--{BOUNDARY}", *parts])
    body = text.encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=900)
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    connection.request("POST", "/api/search", body, {"Content-Type": kind})
    response = connection.getresponse()
    line = response.readline()
    first = time.perf_counter() - start
    assert response.status == 200, f"{response.status}: {line[:200]!r}"
    *_, last = json.loads(line), *map(json.loads, response)
    connection.close()
    assert last["verified"] == last["candidates"] > 0, "not all were verified"
    return first, time.perf_counter() - start


def memory(server: subprocess.Popen[str]) -> str:
    """MB of a server itself, and of the files that it maps."""
    status = pathlib.Path(f"/proc/{server.pid}/status")
    if not status.exists():
        return "memory unknown"
    held = dict(re.findall(r"(Rss\w+):\s+(\d+)", status.read_text()))
    own, mapped = (int(held[name]) / 1000 for name in ("RssAnon", "RssFile"))
    return f"{own:.0f} + {mapped:.0f} MB"


def describe(times: list[tuple[float, float]]) -> str:
    if not times:
        return "no answers"
    median, late = np.percentile(times, [50, 95], axis=0)
    return (
        f"{len(times)} searches, candidates p50 {median[0]:.2f} s, p95 {late[0]:.2f} "
        f"s; verified p50 {median[1]:.2f} s, p95 {late[1]:.2f} s"
    )


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


if __name__ == "__main__":
    main()
