"""Similarities of aggregated descriptors: of two images, and of one with many.

The many lie in `Postings`, sorted by visual word, so that a query touches only the
words that it has: numpy throughout, as the arrays may be mapped from a file.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int32, Int64, UInt8

from delf_jax.retrieval.aggregation import Aggregated

# What the released code does and the papers do not say, for `asmk_similarity`:
# bits that only fill up the last byte of a residual count as equal dimensions, and an
# image without words is less similar than any that shares none.
RELEASED_RULES: dict[str, Any] = {"count_padding_bits": True, "without_words": -1.0}


class Rule(NamedTuple):
    """How similarities are computed from the residuals of common words [ASMK]."""

    alpha: float = 3.0
    tau: float = 0.0
    strict: bool = True
    """above tau means > as in the paper and the released code; else >="""
    normalize: bool = True
    """divide by the root of the product of the numbers of words"""
    idf: bool = False
    """weigh words by idf**2, idf = ln(images / images that have the word); of an
    inverted file only, which knows these numbers"""


ASMK = Rule()
# The inner product of VLADs, summed by word: nothing is below tau.
VLAD = Rule(alpha=1.0, tau=-2.0, normalize=False)


class Postings(NamedTuple):
    """Aggregated images by visual word: which have it, and with what residual.

    Rows offsets[i] to offsets[i + 1] of `images` and `residuals` belong to
    visual_words[i]; within them images ascend.
    """

    visual_words: Int32[np.ndarray, "V"]
    """ascending, each once"""
    offsets: Int64[np.ndarray, "V1"]
    images: Int32[np.ndarray, "P"]
    residuals: Float32[np.ndarray, "P D"] | UInt8[np.ndarray, "P B"]
    word_counts: Int32[np.ndarray, "M"]
    """of each image: how many words it has"""


def vlad_similarity(
    query: Float[np.ndarray, " KD"], index: Float[np.ndarray, " KD"]
) -> float:
    """The inner product of two VLAD or R-VLAD descriptors."""
    return float(query @ index)


def selectivity(
    inner_products: Float[np.ndarray, "*shape"], rule: Rule = ASMK
) -> Float64[np.ndarray, "*shape"]:
    """sign(u) |u|^alpha where u is above tau, else 0 [ASMK]."""
    u = np.asarray(inner_products, np.float64)
    above = u > rule.tau if rule.strict else u >= rule.tau
    return np.where(above, np.sign(u) * np.abs(u) ** rule.alpha, 0)


def asmk_similarity(
    query: Aggregated, index: Aggregated, rule: Rule = ASMK, **options: Any
) -> float:
    """The similarity of two images; options as of `asmk_similarities`."""
    return float(asmk_similarities(query, postings_of([index]), rule, **options)[0])


def postings_of(images: Sequence[Aggregated]) -> Postings:
    """The postings of one image or more, numbered by their places in the sequence."""
    counts = np.array([len(image.visual_words) for image in images], np.int32)
    words = np.concatenate([image.visual_words for image in images])
    residuals = np.concatenate([image.residuals for image in images])
    order = np.argsort(words, kind="stable")
    present, starts = np.unique(words[order], return_index=True)
    return Postings(
        present.astype(np.int32),
        np.append(starts, len(words)).astype(np.int64),
        np.repeat(np.arange(len(images), dtype=np.int32), counts)[order],
        residuals[order],
        counts,
    )


def asmk_similarities(
    query: Aggregated,
    index: Postings,
    rule: Rule = ASMK,
    *,
    dimension: int | None = None,
    count_padding_bits: bool = False,
    without_words: float = 0.0,
) -> Float64[np.ndarray, " M"]:
    """The similarity of a query with each image of the index by ASMK [ASMK].

    By ASMK* if the residuals are packed: of signs that differ in h of D bits the inner
    product is 1 - 2h/D. The selectivities of the common words are summed in float64, by
    ascending word whatever the index holds beside an image, so that an image's
    similarity does not depend on the others.

    Args:
      dimension: of the descriptors; packed residuals need it.
      count_padding_bits: of 8 dimensions or more D is the number of bits stored, as in
        the released code.
      without_words: the result if either image has no words.
    """
    a, b = query.residuals, index.residuals
    if a.dtype != b.dtype:
        raise ValueError(
            f"residuals of {a.dtype} and {b.dtype} do not compare: make both binary "
            "or neither"
        )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"residuals have {a.shape[1]} and {b.shape[1]} columns: they come from "
            "different codebooks"
        )
    ranges = _common_words(query.visual_words, index)
    pairs = [(a[row], b[places]) for row, places in ranges]
    if b.dtype == np.uint8:
        table = _table(b.shape[1], dimension, count_padding_bits, rule)
        found = [table[_hamming(one, others)] for one, others in pairs]
    else:
        # Each to the same bits whatever the other rows: no BLAS.
        products = (np.einsum("d,pd->p", one, others) for one, others in pairs)
        found = [selectivity(each, rule) for each in products]
    images = [index.images[places] for _, places in ranges]
    similarities: Float64[np.ndarray, " M"] = np.bincount(
        np.concatenate([np.zeros(0, np.int32), *images]),
        np.concatenate([np.zeros(0), *found]),
        len(index.word_counts),
    )
    if rule.normalize:
        squares = len(query.visual_words) * index.word_counts.astype(np.float64)
        similarities = similarities / np.sqrt(np.maximum(squares, 1))
    nothing = (index.word_counts == 0) | (len(query.visual_words) == 0)
    return np.where(nothing, without_words, similarities)


def _common_words(
    words: Int[np.ndarray, " W"], index: Postings
) -> list[tuple[int, slice]]:
    """The words of a query that the index has: row of the query, rows of the index.

    So residuals are read in place, and what is computed of a word stays in the cache.
    """
    starts = np.searchsorted(index.visual_words, words)
    ends = np.searchsorted(index.visual_words, words, side="right")
    rows = np.flatnonzero(starts < ends)
    first, last = index.offsets[starts[rows]], index.offsets[ends[rows]]
    ranges = map(slice, first.tolist(), last.tolist())
    return list(zip(rows.tolist(), ranges, strict=True))


def _table(
    stored: int, dimension: int | None, count_padding_bits: bool, rule: Rule
) -> Float64[np.ndarray, " h"]:
    """The selectivity of each Hamming distance: there are few."""
    if dimension is None:
        raise ValueError("packed residuals need the dimension of the descriptors")
    if stored != -(-dimension // 8):
        raise ValueError(
            f"packed residuals of {stored} and {stored} bytes are not both of "
            f"{dimension} dimensions"
        )
    bits = min(dimension, 8) * stored if count_padding_bits else dimension
    return selectivity(1 - 2 * np.arange(8 * stored + 1) / bits, rule)


def _hamming(
    a: UInt8[np.ndarray, " B"], b: UInt8[np.ndarray, "P B"]
) -> Int[np.ndarray, " P"]:
    """Numbers of bits that differ, eight bytes at a time where they come in eights."""
    if len(a) % 8 == 0:
        a, b = (np.ascontiguousarray(x).view(np.uint64) for x in (a, b))
    counts = np.bitwise_count(a[None] ^ b)
    # A sum over few columns is slow in numpy, an addition of columns is not.
    return sum(counts.T, np.zeros(len(b), np.int64))
