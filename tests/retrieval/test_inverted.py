import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_jax.retrieval import aggregation, inverted, similarity
from delf_jax.retrieval.aggregation import Aggregated
from delf_jax.retrieval.inverted import Layout, Rule

WORDS = 17
LAYOUTS = [Layout(dimension, True) for dimension in (1, 5, 64, 128, 300)]
LAYOUTS += [Layout(dimension, False) for dimension in (1, 4, 7, 40, 128)]


def draw(rng, layout, count, share=0.4):
    """Images that have a share of all words; the second has none."""
    images = []
    for number in range(count):
        words = np.flatnonzero(rng.random(WORDS) < share * (number != 1))
        residuals = rng.normal(size=(len(words), layout.dimension)).astype(np.float32)
        image = Aggregated(words.astype(np.int32), residuals)
        images.append(aggregation.binarize(image) if layout.binary else image)
    return images


def listed(images, layout):
    """Their lists, in one array."""
    counts, blocks = zip(*inverted.invert(images, WORDS, layout), strict=True)
    return collected(images, layout, counts, blocks)


def collected(images, layout, counts, blocks):
    word_counts = np.array([len(image.visual_words) for image in images], np.int32)
    counts = np.array(counts, np.int32)
    return inverted.make_lists(layout, counts, word_counts, np.concatenate(blocks))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_list_holds_the_images_of_its_word_with_their_residuals(rng, layout):
    images = draw(rng, layout, 9)
    lists = listed(images, layout)
    for word in range(WORDS):
        expected = [i for i, image in enumerate(images) if word in image.visual_words]
        found, residuals = inverted.read_list(lists, word)
        assert found.tolist() == expected
        rows = residuals
        if layout.binary:
            filled = np.ascontiguousarray(residuals.T).view(np.uint8)
            rows = filled[:, : -(-layout.dimension // 8)]
            assert not filled[:, rows.shape[1] :].any()
        for row, image in zip(rows, expected, strict=True):
            place = images[image].visual_words.tolist().index(word)
            np.testing.assert_array_equal(row, images[image].residuals[place])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_merged_parts_are_the_lists_of_all_that_is_kept(rng, layout):
    images = draw(rng, layout, 12)
    parts = [listed(images[a:b], layout) for a, b in ((0, 5), (5, 6), (6, 12))]
    kept = rng.random(12) < 0.6
    masks = [kept[:5], np.zeros(1, bool), np.ones(6, bool)]
    chosen = np.flatnonzero(np.concatenate(masks)).tolist()
    left = [images[place] for place in chosen]
    found = list(inverted.merge(parts, masks))
    expected = list(inverted.invert(left, WORDS, layout))
    for (count, block), (other_count, other) in zip(found, expected, strict=True):
        assert count == other_count
        np.testing.assert_array_equal(block, other)


@given(
    seed=st.integers(0, 2**32 - 1),
    layout=st.sampled_from(LAYOUTS),
    tau=st.sampled_from([-1.0, 0.0, 0.3]),
    alpha=st.sampled_from([1.0, 3.0, 2.5]),
    strict=st.booleans(),
)
def test_scores_are_the_unnormalised_similarities_to_the_bit(
    seed, layout, tau, alpha, strict
):
    rng = np.random.default_rng(seed)
    images = draw(rng, layout, 6, rng.random())
    (query,) = draw(rng, layout, 1, rng.random())
    rule = Rule(alpha, tau, strict)
    found = inverted.scores(listed(images, layout), query, rule)
    expected = similarity.asmk_similarities(
        query,
        similarity.postings_of(images),
        rule._replace(normalize=False),
        dimension=layout.dimension,
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("layout", [Layout(128, True), Layout(7, False)])
@pytest.mark.parametrize("size", [1, 100, 2**30])
def test_scores_do_not_depend_on_how_many_lists_are_read_at_once(
    rng, layout, size, monkeypatch
):
    images = draw(rng, layout, 40)
    lists, query = listed(images, layout), images[0]
    expected = inverted.scores(lists, query, Rule())
    monkeypatch.setattr(inverted, "_BATCH_BYTES", size)
    np.testing.assert_array_equal(inverted.scores(lists, query, Rule()), expected)


def test_a_word_weighs_the_square_of_its_idf():
    counts = np.array([0, 1, 4, 8], np.int32)
    found = inverted.word_weights(counts, 8)
    np.testing.assert_allclose(found, [0, np.log(8) ** 2, np.log(2) ** 2, 0])


def test_norms_are_the_weights_of_the_words_of_an_image(rng):
    layout = Layout(8, True)
    images = draw(rng, layout, 5)
    weights = rng.random(WORDS)
    found = inverted.squared_norms(listed(images, layout), weights)
    expected = [weights[image.visual_words].sum() for image in images]
    np.testing.assert_allclose(found, expected)


def test_lists_of_other_lengths_are_refused(rng):
    layout = Layout(8, True)
    lists = listed(draw(rng, layout, 5), layout)
    given = layout, lists.counts, lists.word_counts
    with pytest.raises(ValueError, match="are not those of"):
        inverted.make_lists(*given, lists.data[:-1])
    given = layout, lists.counts, lists.word_counts[1:]
    with pytest.raises(ValueError, match="are not those of"):
        inverted.make_lists(*given, lists.data)


def test_residuals_of_another_kind_are_refused(rng):
    images = draw(rng, Layout(8, True), 2)
    with pytest.raises(ValueError, match="are not those of 9 dimensions, packed"):
        list(inverted.invert(images, WORDS, Layout(9, True)))
    with pytest.raises(ValueError, match="are not those of 8 dimensions, float"):
        list(inverted.invert(images, WORDS, Layout(8, False)))
