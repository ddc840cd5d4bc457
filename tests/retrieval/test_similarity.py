import json

import numpy as np
import pytest

from delf_jax.retrieval import aggregation, similarity
from delf_jax.retrieval.aggregation import Aggregated
from delf_jax.retrieval.similarity import Rule


def draw(rng, images=6, words=30, dimension=16):
    """Images with random words and unit residuals; the last one has no word."""
    drawn = []
    for count in [*rng.integers(1, words, images - 1), 0]:
        residuals = rng.normal(size=(count, dimension)).astype(np.float32)
        residuals /= np.linalg.norm(residuals, axis=1, keepdims=True)
        chosen = np.sort(rng.choice(words, count, replace=False)).astype(np.int32)
        drawn.append(Aggregated(chosen, residuals))
    return drawn


def naive_similarity(a, b, rule, without_words):
    """By looping over words, of residuals that are not packed."""
    alpha, tau, strict, normalize, _ = rule
    if not len(a.visual_words) or not len(b.visual_words):
        return without_words
    total = 0.0
    of_b = dict(zip(b.visual_words.tolist(), b.residuals, strict=True))
    for word, residual in zip(a.visual_words.tolist(), a.residuals, strict=True):
        if word in of_b:
            u = residual.astype(np.float64) @ of_b[word].astype(np.float64)
            if u > tau or (u == tau and not strict):
                total += np.sign(u) * abs(u) ** alpha
    return total / np.sqrt(len(a.visual_words) * len(b.visual_words)) ** normalize


def signs(image):
    """The binary image as vectors of +-1 / sqrt(D), whose products are cosines."""
    plus = np.where(image.residuals > 0, 1.0, -1.0)
    return image._replace(residuals=plus / np.sqrt(plus.shape[1]))


RULES = [
    (Rule(), 0.0),
    (Rule(normalize=False), 0.0),
    (Rule(alpha=1.0, tau=0.25), 0.0),
    (Rule(alpha=1.0, tau=0.25, strict=False), 0.0),
    (Rule(alpha=2.0, tau=-2.0), -1.0),
]


@pytest.mark.parametrize(("rule", "without_words"), RULES)
def test_asmk_is_what_a_loop_gives(rng, rule, without_words):
    images = draw(rng)
    index = similarity.postings_of(images)
    for query in images:
        expected = [naive_similarity(query, b, rule, without_words) for b in images]
        found = similarity.asmk_similarities(
            query, index, rule, without_words=without_words
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("rule", "without_words"), RULES)
@pytest.mark.parametrize("dimension", [4, 12, 16, 64])
def test_binary_asmk_is_what_a_loop_gives(rng, rule, without_words, dimension):
    images = draw(rng, dimension=dimension)
    packed = [aggregation.binarize(image) for image in images]
    index = similarity.postings_of(packed)
    for query, bits in zip(map(signs, images), packed, strict=True):
        expected = [
            naive_similarity(query, signs(b), rule, without_words) for b in images
        ]
        found = similarity.asmk_similarities(
            bits, index, rule, dimension=dimension, without_words=without_words
        )
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("binary", [False, True])
def test_an_images_similarity_does_not_depend_on_the_others(rng, binary):
    images = draw(rng, images=9)
    if binary:
        images = [aggregation.binarize(image) for image in images]
    index = similarity.postings_of(images)
    for query in images:
        many = similarity.asmk_similarities(query, index, dimension=16)
        single = [similarity.asmk_similarity(query, b, dimension=16) for b in images]
        np.testing.assert_array_equal(many, single)


def test_postings_hold_every_word_of_every_image_once(rng):
    images = draw(rng)
    index = similarity.postings_of(images)
    found = set()
    for number, word in enumerate(index.visual_words.tolist()):
        part = slice(index.offsets[number], index.offsets[number + 1])
        ids = index.images[part].tolist()
        assert ids == sorted(set(ids))
        found |= {
            (word, id, *residual)
            for id, residual in zip(ids, index.residuals[part].tolist(), strict=True)
        }
    assert found == {
        (word, id, *residual)
        for id, image in enumerate(images)
        for word, residual in zip(*(field.tolist() for field in image), strict=True)
    }
    assert index.word_counts.tolist() == [len(i.visual_words) for i in images]


def test_images_without_words_make_an_index(rng):
    empty = draw(rng)[-1]
    index = similarity.postings_of([empty, empty])
    for query in draw(rng):
        found = similarity.asmk_similarities(query, index, without_words=-1.0)
        assert found.tolist() == [-1, -1]


def test_a_threshold_is_strict_unless_asked_otherwise():
    u = np.array([-0.5, 0.0, 0.25, 0.5])
    assert similarity.selectivity(u, Rule(2.0, 0.25)).tolist() == [0, 0, 0, 0.25]
    found = similarity.selectivity(u, Rule(2.0, 0.25, strict=False))
    assert found.tolist() == [0, 0, 0.0625, 0.25]
    found = similarity.selectivity(u, Rule(2.0, tau=-1.0))
    assert found.tolist() == [-0.25, 0, 0.0625, 0.25]


def test_padding_bits_count_as_equal_dimensions_where_asked_for(rng):
    a, b = rng.normal(size=(2, 1, 12))
    equal = np.sum(np.sign(a) == np.sign(b))
    word = np.zeros(1, np.int32)
    packed = [Aggregated(word, np.packbits(x > 0, axis=1)) for x in (a, b)]
    for counted, bits in ((False, 12), (True, 16)):
        found = similarity.asmk_similarity(
            *packed, Rule(1.0, -2.0), dimension=12, count_padding_bits=counted
        )
        assert found == pytest.approx(2 * (equal + bits - 12) / bits - 1)


def test_vlad_is_compared_by_its_inner_product(rng):
    a, b = rng.normal(size=(2, 20))
    assert similarity.vlad_similarity(a, b) == pytest.approx(np.dot(a, b))


def test_what_does_not_compare_is_refused(rng):
    a, b = draw(rng)[:2]
    packed = aggregation.binarize(a)
    with pytest.raises(ValueError, match="uint8 and float32 do not compare"):
        similarity.asmk_similarity(packed, b)
    with pytest.raises(ValueError, match="need the dimension"):
        similarity.asmk_similarity(packed, packed)
    with pytest.raises(ValueError, match="2 and 2 bytes are not both of 17"):
        similarity.asmk_similarity(packed, packed, dimension=17)
    with pytest.raises(ValueError, match="16 and 8 columns"):
        similarity.asmk_similarity(a, b._replace(residuals=b.residuals[:, :8]))


def test_an_image_is_as_similar_as_can_be_to_itself(rng):
    image = draw(rng)[0]
    assert similarity.asmk_similarity(image, image) == pytest.approx(1, abs=1e-6)
    packed = aggregation.binarize(image)
    assert similarity.asmk_similarity(packed, packed, dimension=16) == 1


@pytest.mark.golden
def test_similarities_are_the_originals(golden):
    """All 1056 of them, of VLAD, ASMK, ASMK* and their regional forms."""
    expected = json.loads((golden / "similarity.json").read_text())
    with np.load(golden / "aggregation.npz") as arrays:
        arrays = dict(arrays)
    for key, value in expected.items():
        case, kind, l2, alpha, tau, pair = key.split("|")
        images = [_image(arrays, case, kind, name, l2 == "l2=True") for name in pair]
        if "VLAD" in kind:
            found = similarity.vlad_similarity(*images)
        else:
            found = similarity.asmk_similarity(
                *images,
                Rule(
                    alpha=float(alpha.removeprefix("alpha=")),
                    tau=float(tau.removeprefix("tau=")),
                    normalize=l2 == "l2=True",
                ),
                dimension=arrays[f"{case}/codebook"].shape[1],
                **similarity.RELEASED_RULES,
            )
        # Packed signs leave nothing to rounding but the sum.
        rtol = 1e-9 if "STAR" in kind else 1e-4
        assert found == pytest.approx(value, rel=rtol, abs=2e-6), key


def _image(arrays, case, kind, name, normalize):
    """Image A, B, C or the empty E, as the original's file or as ours of VLAD."""
    codebook = arrays[f"{case}/codebook"]
    suffix = {"A": "", "E": None}.get(name, f"_{name}")
    if "VLAD" in kind:
        features = arrays[f"{case}/features{suffix}"]
        regions = arrays[f"{case}/num_features_per_region{suffix}"].tolist()
        return aggregation.aggregate_vlad(
            features,
            aggregation.assign_words(features, codebook),
            codebook,
            features_per_region=regions if kind == "RVLAD" else None,
            normalize=normalize,
        )
    key = f"{case}/{kind}_m1"
    if suffix is None:
        width = arrays[f"{key}/descriptor"].size // arrays[f"{key}/words"].size
        empty = np.zeros((0, width), arrays[f"{key}/descriptor"].dtype)
        return Aggregated(np.zeros(0, np.int32), empty)
    words = arrays[f"{key}/words{suffix}"].astype(np.int32)
    descriptor = arrays[f"{key}/descriptor{suffix}"]
    return Aggregated(words, descriptor.reshape(len(words), -1))
