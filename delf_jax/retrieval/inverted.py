"""Inverted lists: of each visual word the images that have it, with their residuals.

The lists of many images lie one after the other in one array, so that a query reads one
stretch for each of its words; it may be mapped from a file. A word that n images have:

    images     n int32, ascending, filled up to 8 bytes
    residuals  packed signs: ceil(D / 64) columns of n uint64, filled up with zeros;
               float: n rows of D float32, filled up to 8 bytes
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64, Integer, UInt8, UInt64

from delf_jax.retrieval import similarity
from delf_jax.retrieval.aggregation import Aggregated
from delf_jax.retrieval.similarity import Rule

# Of residuals that a query compares at a time.
_BATCH_BYTES = 2**19


class Layout(NamedTuple):
    """How residuals are stored."""

    dimension: int
    binary: bool

    @property
    def columns(self) -> int:
        """uint64 of a packed residual"""
        return -(-self.dimension // 64)


class Lists(NamedTuple):
    """The inverted lists of some images, which are numbered from 0."""

    layout: Layout
    counts: Int32[np.ndarray, "K"]
    """of each visual word: how many images have it"""
    starts: Int64[np.ndarray, "K1"]
    """list i is data[starts[i]:starts[i + 1]]"""
    word_counts: Int32[np.ndarray, "M"]
    """of each image: how many words it has"""
    data: UInt64[np.ndarray, "N"]


Residuals = UInt64[np.ndarray, "C n"] | Float32[np.ndarray, "n D"]


def make_lists(
    layout: Layout,
    counts: Int32[np.ndarray, " K"],
    word_counts: Int32[np.ndarray, " M"],
    data: UInt64[np.ndarray, " N"],
) -> Lists:
    """Lists of these lengths; ValueError if they are not as long as the data."""
    lengths = counts.astype(np.int64)
    row = 2 * layout.columns if layout.binary else layout.dimension
    sizes = (lengths + 1) // 2 + (lengths * row + 1) // 2
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if starts[-1] != len(data) or lengths.sum() != word_counts.sum(dtype=np.int64):
        raise ValueError(f"{len(data)} numbers are not those of {starts[-1]}")
    return Lists(layout, counts, starts, word_counts, data)


def read_list(lists: Lists, word: int) -> tuple[Int32[np.ndarray, " n"], Residuals]:
    """(images, residuals) of a word, as views."""
    ((count, start, middle),) = _places(lists, slice(word, word + 1)).tolist()
    images = lists.data.view(np.int32)[2 * start : 2 * start + count]
    return images, _residuals(lists, count, middle)


def is_list(lists: Lists, word: int) -> bool:
    """Whether a list has images that there are, ascending, and finite residuals."""
    images, residuals = read_list(lists, word)
    if not len(images):
        return True
    inside = 0 <= images[0] and images[-1] < len(lists.word_counts)
    finite = lists.layout.binary or np.isfinite(residuals).all()
    return bool(inside and finite and (np.diff(images) > 0).all())


def invert(
    images: Sequence[Aggregated], words: int, layout: Layout
) -> Iterator[tuple[int, UInt64[np.ndarray, " n"]]]:
    """(length, list) of each word of a codebook, of images in the order given."""
    counts = [len(image.visual_words) for image in images]
    offsets = np.cumsum([0, *counts])
    present = np.concatenate([image.visual_words for image in images])
    residuals = np.concatenate([_columns(image.residuals, layout) for image in images])
    # Transposing this matrix of images and words sorts by word, and within by image.
    places = np.arange(len(present), dtype=np.int32)
    shape = (len(images), words)
    sorted_ = scipy.sparse.csr_array((places, present, offsets), shape=shape).tocsc()
    starts, residuals = sorted_.indptr.tolist(), residuals[sorted_.data]
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        rows = residuals[start:end]
        rows = rows.T if layout.binary else rows
        yield end - start, _encode(sorted_.indices[start:end], rows)


def merge(
    parts: Sequence[Lists], kept: Sequence[Bool[np.ndarray, " _"]]
) -> Iterator[tuple[int, UInt64[np.ndarray, " n"]]]:
    """(length, list) of each word, of the images of all parts that are kept.

    They are numbered through all parts. Little more than one list is in memory.
    """
    flags = np.concatenate(kept)
    numbers = np.where(flags, np.cumsum(flags) - 1, -1).astype(np.int32)
    offsets = np.cumsum([0, *(len(mask) for mask in kept[:-1])], dtype=np.int32)
    # Lengths, starts and middles of the lists of a word, in all parts.
    places = np.stack([_places(part, slice(None)) for part in parts], axis=2)
    views = [(part.data.view(np.int32), part) for part in parts]
    axis = 1 if parts[0].layout.binary else 0
    for of_word in places:
        ids, rows = [], []
        for (integers, part), (n, start, middle) in zip(
            views, of_word.T.tolist(), strict=True
        ):
            if n:
                ids.append(integers[2 * start : 2 * start + n])
                rows.append(_residuals(part, n, middle))
        if not ids:
            yield 0, np.zeros(0, np.uint64)
            continue
        images = numbers[np.concatenate(ids) + np.repeat(offsets, of_word[0])]
        residuals = np.concatenate(rows, axis)
        chosen = images >= 0
        if not chosen.all():
            images, residuals = images[chosen], residuals.compress(chosen, axis)
        yield len(images), _encode(images, residuals)


def scores(
    lists: Lists,
    query: Aggregated,
    rule: Rule,
    weights: Float64[np.ndarray, " K"] | None = None,
) -> Float64[np.ndarray, " M"]:
    """The selectivities of the words shared with each image, weighted and summed.

    In float64 by ascending word: the bits of `similarity.asmk_similarities`.
    """
    found = np.zeros(len(lists.word_counts))
    dimension, binary = lists.layout
    vectors = _columns(query.residuals, lists.layout)
    # There are few distances: each one's selectivity is computed once.
    table = similarity.selectivity(1 - 2 * np.arange(dimension + 1) / dimension, rule)
    integers = lists.data.view(np.int32)
    for rows in _batches(lists.counts[query.visual_words], vectors):
        words = query.visual_words[rows]
        places, lengths = _places(lists, words).tolist(), lists.counts[words]
        images = np.concatenate([integers[2 * s : 2 * s + n] for n, s, _ in places])
        if binary:
            values = table.take(_distances(lists, places, vectors[rows], lengths))
        else:
            products = _products(lists, places, vectors[rows], lengths)
            values = similarity.selectivity(products, rule)
        if weights is not None:
            values = values * np.repeat(weights[words], lengths)
        # Goes from the first to the last; on a CPU a third faster than taking, adding
        # and putting, and twice as fast as np.bincount of all words at once.
        np.add.at(found, images, values)
    return found


def word_weights(
    counts: Int32[np.ndarray, " K"] | Int64[np.ndarray, " K"], images: int
) -> Float64[np.ndarray, " K"]:
    """idf**2 of each word, idf = ln(images / images that have it); 0 if none has it."""
    return np.log(max(images, 1) / np.maximum(counts, 1)) ** 2 * (counts > 0)


def squared_norms(
    lists: Lists, weights: Float64[np.ndarray, " K"]
) -> Float64[np.ndarray, " M"]:
    """Of each image the sum of the weights of its words, added by ascending word."""
    norms = np.zeros(len(lists.word_counts))
    for word in np.flatnonzero(lists.counts).tolist():
        images, _ = read_list(lists, word)
        np.add.at(norms, images, weights[word])
    return norms


def normalized(
    found: Float64[np.ndarray, " M"], query: float, images: Float64[np.ndarray, " M"]
) -> Float64[np.ndarray, " M"]:
    """Scores over the root of the product of the squared norms, unless that is 0."""
    norms = np.sqrt(query * images)
    return np.divide(found, norms, out=found, where=norms > 0)


def _batches(lengths: Int32[np.ndarray, " W"], vectors: np.ndarray) -> Iterator[slice]:
    """The words of a query in stretches whose lists fit into the cache together.

    Short lists take longer to call for than to compute, one by one.
    """
    ends = np.cumsum(lengths, dtype=np.int64) * vectors.itemsize * vectors.shape[1]
    start, before = 0, 0
    while start < len(ends):
        end = int(np.searchsorted(ends, before + _BATCH_BYTES, side="right"))
        end = max(end, start + 1)
        yield slice(start, end)
        start, before = end, ends[end - 1]


def _places(
    lists: Lists, words: Int32[np.ndarray, " W"] | slice
) -> Int64[np.ndarray, "W 3"]:
    """Length, start, and start of the residuals, of each list."""
    lengths, starts = lists.counts[words].astype(np.int64), lists.starts[:-1][words]
    return np.stack([lengths, starts, starts + (lengths + 1) // 2], axis=1)


def _residuals(lists: Lists, count: int, middle: int) -> Residuals:
    if lists.layout.binary:
        columns = lists.layout.columns
        return lists.data[middle : middle + columns * count].reshape(columns, count)
    width = lists.layout.dimension
    numbers = lists.data.view(np.float32)[2 * middle :]
    return numbers[: width * count].reshape(count, width)


def _distances(
    lists: Lists,
    places: list[list[int]],
    vectors: UInt64[np.ndarray, "W C"],
    lengths: Int32[np.ndarray, " W"],
) -> Integer[np.ndarray, " n"]:
    """Hamming distances, column by column: the longer axis is the fast one."""
    # Sums of four may not fit into uint8.
    kind = np.uint8 if vectors.shape[1] <= 3 else np.uint16
    found = np.zeros(lengths.sum(), kind)
    residuals = [_residuals(lists, n, middle) for n, _, middle in places]
    for column, of_words in enumerate(vectors.T):
        of_column = np.concatenate([each[column] for each in residuals])
        of_column ^= np.repeat(of_words, lengths)
        found += np.bitwise_count(of_column)
    return found


def _products(
    lists: Lists,
    places: list[list[int]],
    vectors: Float32[np.ndarray, "W D"],
    lengths: Int32[np.ndarray, " W"],
) -> Float32[np.ndarray, " n"]:
    """Inner products, each to the same bits whatever the other rows: no BLAS."""
    rows = np.concatenate([_residuals(lists, n, middle) for n, _, middle in places])
    return np.einsum("pd,pd->p", np.repeat(vectors, lengths, axis=0), rows)


def _columns(
    residuals: UInt8[np.ndarray, "W B"] | Float32[np.ndarray, "W D"], layout: Layout
) -> UInt64[np.ndarray, "W C"] | Float32[np.ndarray, "W D"]:
    """Residuals as they are stored; ValueError if they are of another kind."""
    stored = -(-layout.dimension // 8) if layout.binary else layout.dimension
    kind = np.uint8 if layout.binary else np.float32
    if residuals.dtype != kind or residuals.shape[1] != stored:
        raise ValueError(
            f"residuals {residuals.dtype} {list(residuals.shape)} are not those of "
            f"{layout.dimension} dimensions, {'packed' if layout.binary else 'float'}"
        )
    if not layout.binary:
        return residuals
    filled = np.zeros((len(residuals), 8 * layout.columns), np.uint8)
    filled[:, :stored] = residuals
    return filled.view(np.uint64)


def _encode(
    images: Int[np.ndarray, " n"], residuals: Residuals
) -> UInt64[np.ndarray, " N"]:
    """The list of a word."""
    middle = (len(images) + 1) // 2
    block = np.zeros(middle + -(-residuals.nbytes // 8), np.uint64)
    block[:middle].view(np.int32)[: len(images)] = images
    rest = block[middle:].view(residuals.dtype)
    rest[: residuals.size].reshape(residuals.shape)[:] = residuals
    return block
