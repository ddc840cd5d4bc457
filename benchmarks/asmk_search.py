"""Time and memory of a query of ASMK* against many images: inverted file and others.

    python benchmarks/asmk_search.py                        100,000 images
    python benchmarks/asmk_search.py --images=1000000 --folder=DIR

Images are drawn: each has some 500 words (400 to 600 draws) of 65,536, whose
frequencies fall as 1 / (rank + 6554), in no order: a list that a query meets is 1.6
times as long as the average list, where 4096 k-means words of the bundled model on
photos of landmarks make it 1.1. Residuals are random, 128 bits; a query is an image of
the same kind, half of whose words are those of an image of the index, with 40 bits
changed.

Up to 200,000 images the peers take part: brute force in numpy, vectorised over all
images in chunks, without an inverted file; the loop over the lists of a query that
jenicek/asmk makes, written from its description; and the original's comparison, image
by image, on a few, multiplied up. All must find the same. Beyond that the inverted file
alone is built in `--folder`, measured and deleted: it takes 10 KB an image.
"""

import argparse
import pathlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator

import numpy as np
import rounds
from aggregation import compare_as_the_original

from delf_jax.index import codebook, inverted_builder, inverted_file
from delf_jax.index.inverted_file import InvertedFile
from delf_jax.retrieval.aggregation import Aggregated
from delf_jax.retrieval.inverted import Rule, read_list

WORDS, DIMENSION = 65536, 128
FEWEST, MOST = 400, 600
# Of the frequencies of words: the share of all ranks at which they have halved.
EVENNESS = 0.1
CHUNK, FEW, PEERS_UP_TO, QUERIES = 1000, 200, 200_000, 20
GB = 1e9
# Images, and bytes of a posting.
ON_PAPER, POSTING = 100_000_000, 4 + DIMENSION // 8


def draw_images(count: int) -> Iterator[Aggregated]:
    """Images, the same for the same count."""
    rng = np.random.default_rng(0)
    names = rng.permutation(WORDS).astype(np.int32)
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        # The inverse of the cumulated frequencies.
        drawn = rng.random((size, MOST), np.float32)
        drawn = EVENNESS * ((1 + 1 / EVENNESS) ** drawn - 1)
        words = names[np.minimum((drawn * WORDS).astype(np.int32), WORDS - 1)]
        draws = rng.integers(FEWEST, MOST + 1, size)
        words[np.arange(MOST) >= draws[:, None]] = WORDS
        words.sort(axis=1)
        first = np.diff(words, axis=1, prepend=-1) > 0
        first &= words < WORDS
        ends = np.cumsum(first.sum(axis=1))
        bits = np.frombuffer(rng.bytes(int(ends[-1]) * DIMENSION // 8), np.uint8)
        parts = np.split(words[first], ends[:-1])
        residuals = np.split(bits.reshape(ends[-1], -1), ends[:-1])
        yield from map(Aggregated, parts, residuals)


def draw_queries(likes: list[Aggregated]) -> list[Aggregated]:
    """Queries that share half of the words of an image, with similar residuals."""
    rng = np.random.default_rng(1)
    queries = []
    for like, other in zip(likes, likes[1:] + likes[:1], strict=True):
        kept = np.flatnonzero(rng.random(len(like.visual_words)) < 0.5)
        flips = np.zeros((len(kept), DIMENSION), np.uint8)
        flips[:, :40] = 1
        flips = np.packbits(rng.permuted(flips, axis=1), axis=1)
        new = np.setdiff1d(other.visual_words, like.visual_words)
        new = np.sort(rng.permutation(new)[: len(like.visual_words) - len(kept)])
        words = np.concatenate([like.visual_words[kept], new])
        drawn = rng.integers(0, 256, (len(new), DIMENSION // 8), np.uint8)
        bits = [like.residuals[kept] ^ flips, drawn]
        order = np.argsort(words)
        queries.append(Aggregated(words[order], np.concatenate(bits)[order]))
    return queries


class Memory:
    """Watches how much memory this process takes, in GB; mapped files are not of it."""

    def __init__(self):
        self.peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def restart(self) -> None:
        self.peak = 0.0
        self._look()

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(0.02)

    def _look(self) -> None:
        status = pathlib.Path("/proc/self/status").read_text()
        kilobytes = int(status.partition("RssAnon:")[2].split()[0])
        self.peak = max(self.peak, kilobytes * 1024 / GB)


def build(
    folder: pathlib.Path, count: int, memory: Memory
) -> tuple[InvertedFile, list[Aggregated]]:
    """The inverted file of so many images, and some of them."""
    centroids = np.zeros((WORDS, DIMENSION), np.float32)
    saved = codebook.save_codebook(folder / "codebook", centroids, {})
    info = {
        "format": inverted_file.FORMAT,
        "finished": False,
        "words": WORDS,
        "dimension": DIMENSION,
        "binary": True,
        "assignments": 1,
        "rule": Rule()._asdict(),
        **dict.fromkeys(("key", "codebook_sha256"), "drawn"),
        "codebook_file": saved.info["sha256"],
    }
    (folder / "shards").mkdir()
    writer = inverted_builder.Writer(folder, info, [])
    likes, every = [], max(1, count // QUERIES)
    start, drawing = time.perf_counter(), 0.0
    images = draw_images(count)
    for number in range(count):
        before = time.perf_counter()
        image = next(images)
        drawing += time.perf_counter() - before
        if number % every == 0 and len(likes) < QUERIES:
            likes.append(Aggregated(*map(np.array, image)))
        writer.add(f"{number:08d}.jpg", "drawn", image)
        if (number + 1) % 100_000 == 0:
            print(f"  {number + 1} images, {time.perf_counter() - start:.0f} s")
    writer.finish()
    seconds = time.perf_counter() - start - drawing
    size = sum(path.stat().st_size for path in (folder / "shards").iterdir())
    print(
        f"  built in {seconds:.1f} s (drawing left out): "
        f"{info['postings'] / count:.0f} words and {size / count:.0f} bytes an image, "
        f"{size / GB:.2f} GB in {len(writer.shards)} shards; peak memory "
        f"{memory.peak:.2f} GB"
    )
    return inverted_file.open_inverted_file(folder), draw_queries(likes)


class Forward:
    """All images, one after the other: what brute force reads."""

    def __init__(self, count: int):
        images = list(draw_images(count))
        self.few = images[:FEW]
        sizes = [len(image.visual_words) for image in images]
        self.owners = np.repeat(np.arange(count, dtype=np.int32), sizes)
        self.counts = np.array(sizes)
        self.words = np.concatenate([image.visual_words for image in images])
        self.residuals = np.concatenate([image.residuals for image in images]).view(
            np.uint64
        )


def brute_force(query: Aggregated, images: Forward) -> np.ndarray:
    """Each image's words looked up among the query's; in chunks that stay in cache."""
    places = np.full(WORDS, -1, np.int32)
    places[query.visual_words] = np.arange(len(query.visual_words))
    bits = query.residuals.view(np.uint64)
    table = np.maximum(1 - 2 * np.arange(DIMENSION + 1) / DIMENSION, 0) ** 3
    owners, values = [], []
    for start in range(0, len(images.words), 2**18):
        rows = places[images.words[start : start + 2**18]]
        common = np.flatnonzero(rows >= 0)
        differ = bits[rows[common]] ^ images.residuals[start + common]
        counts = np.bitwise_count(differ)
        owners.append(images.owners[start + common])
        values.append(table[counts[:, 0] + counts[:, 1]])
    found = np.bincount(
        np.concatenate(owners), np.concatenate(values), len(images.counts)
    )
    return found / np.sqrt(len(query.visual_words) * images.counts)


def loop_of_lists(query: Aggregated, index: InvertedFile) -> np.ndarray:
    """jenicek/asmk's: each list in full, thresholded, raised, normalised, added."""
    found = np.zeros(len(index.ids))
    bits = query.residuals.view(np.uint64)
    for shard, rows, norms in zip(index.shards, index.rows, index.norms, strict=True):
        scores = np.zeros(len(norms))
        for vector, word in zip(bits, query.visual_words.tolist(), strict=True):
            images, columns = read_list(shard.lists, word)
            differ = np.bitwise_count(columns ^ vector[:, None]).sum(axis=0)
            u = 1 - 2 * (differ / DIMENSION)
            above = u >= 0
            images = images[above]
            scores[images] += np.power(u[above], 3) / np.sqrt(norms[images])
        found[rows] = scores / np.sqrt(len(query.visual_words))
    return found


def compare(index: InvertedFile, queries: list[Aggregated], count: int) -> None:
    """Ours beside the peers, one core."""
    forward = Forward(len(index.ids))
    query = queries[0]
    found = inverted_file.similarities(index, query)
    np.testing.assert_array_equal(brute_force(query, forward), found)
    np.testing.assert_allclose(loop_of_lists(query, index), found, atol=1e-12)
    few = [compare_as_the_original(query, image) for image in forward.few]
    np.testing.assert_allclose(few, found[:FEW], atol=1e-9)
    brute = "brute force, vectorised"
    times = rounds.interleave(
        {
            brute: lambda: [brute_force(q, forward) for q in queries[:3]],
            "loop of lists (jenicek/asmk's)": lambda: [
                loop_of_lists(q, index) for q in queries[:3]
            ],
            "ours, all similarities": lambda: [
                inverted_file.similarities(index, q) for q in queries[:3]
            ],
            "ours, top 100": lambda: [
                inverted_file.search(index, q, 100) for q in queries[:3]
            ],
        },
        count,
    )
    times = {name: [t / 3 for t in each] for name, each in times.items()}
    start = time.perf_counter()
    for image in forward.few:
        compare_as_the_original(query, image)
    seconds = (time.perf_counter() - start) * len(index.ids) / FEW
    times["original, image by image *"] = [seconds]
    rounds.report(times, peer=brute)
    print(f"  * extrapolated from {FEW} images")


def measure(index: InvertedFile, queries: list[Aggregated], memory: Memory) -> None:
    """Each query once as it comes, then all again; the image it is like comes first."""
    memory.restart()
    for label in ("first time, lists checked", "again"):
        times, postings = [], []
        for number, query in enumerate(queries):
            start = time.perf_counter()
            rows, _ = inverted_file.search(index, query, 100)
            times.append(time.perf_counter() - start)
            assert rows[0] == number * max(1, len(index.ids) // QUERIES)
            postings.append(
                sum(int(s.lists.counts[query.visual_words].sum()) for s in index.shards)
            )
        print(
            f"  {label:26s} median {statistics.median(times) * 1e3:8.1f} ms   max "
            f"{max(times) * 1e3:8.1f} ms a query of "
            f"{np.mean([len(q.visual_words) for q in queries]):.0f} words and "
            f"{np.mean(postings) / 1e6:.2f} M postings"
        )
    print(f"  peak memory {memory.peak:.2f} GB, mapped lists left out")
    scale = ON_PAPER / len(index.ids)
    size = sum(shard.entry["bytes"] for shard in index.shards) * scale / 1e12
    print(
        f"  on paper, {ON_PAPER / 1e6:.0f} M images: {size:.2f} TB, and a query of "
        f"{np.mean(postings) * scale / 1e6:.0f} M postings, "
        f"{np.mean(postings) * scale * POSTING / GB:.0f} GB, that takes "
        f"{statistics.median(times) * scale:.0f} s where they are in memory: to be "
        "dealt out to as many machines as keep their part in memory, whose lists of "
        "the best are merged"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--folder", help="where to build it (a temporary folder)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(f"{options.images} images")
        memory = Memory()
        index, queries = build(pathlib.Path(folder), options.images, memory)
        measure(index, queries, memory)
        if options.images <= PEERS_UP_TO:
            rounds.keep_to_one_core()
            print("beside others, one core")
            compare(index, queries, options.rounds)


if __name__ == "__main__":
    main()
