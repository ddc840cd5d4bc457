"""Time of aggregating an image's descriptors, beside the original's way and others.

    python benchmarks/aggregation.py [--words=65536] [--features=1000]

One core. First the visual words: the original subtracts all centroids from all
descriptors side by side, and sorts all distances of a descriptor in full; it is run on
a few descriptors, without the copies that the original makes before that, and its time
is multiplied up. faiss takes part where it is installed (`pip install faiss-cpu`). Then
the residuals of given words: the loop over words is what jenicek/asmk does, written
from its description. Last a query of ASMK* against many images: the original compares
image by image, word by word and byte by byte; it too is run on a few, and multiplied
up. All must find the same.
"""

import argparse
import statistics

import jax.numpy as jnp
import numpy as np
import rounds

from delf_jax.retrieval import aggregation, similarity
from delf_jax.retrieval.aggregation import Aggregated

DIMENSION = 128
# Descriptors and images that the original's way is measured on.
FEW_FEATURES, FEW_IMAGES = 4, 200
WORDS_PER_IMAGE = 500


def draw(words: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit centroids, and unit descriptors near some of them."""
    rng = np.random.default_rng(0)
    codebook = rng.normal(size=(words, DIMENSION))
    codebook /= np.linalg.norm(codebook, axis=1, keepdims=True)
    # Half as many words as descriptors, so that words have several.
    chosen = rng.choice(rng.integers(0, words, features // 2), features)
    noise = 0.05 * rng.normal(size=(features, DIMENSION))
    descriptors = codebook[chosen] + noise
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return descriptors.astype(np.float32), codebook.astype(np.float32)


def assign_as_the_original(descriptors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Its rule in numpy: differences of all pairs, and a full sort."""
    differences = descriptors[:, None] - codebook[None]
    distances = np.einsum("nkd,nkd->nk", differences, differences)
    return np.argsort(distances, axis=1)[:, 0]


def aggregate_in_a_loop(
    descriptors: np.ndarray, words: np.ndarray, codebook: np.ndarray
) -> Aggregated:
    """One word after the other: the sum of the residuals of the descriptors it has."""
    present = np.unique(words)
    residuals = np.empty((len(present), codebook.shape[1]), np.float32)
    for place, word in enumerate(present):
        members = (words == word).any(axis=1)
        residuals[place] = (descriptors[members] - codebook[word]).sum(axis=0)
    norms = np.linalg.norm(residuals, axis=1, keepdims=True)
    return Aggregated(present.astype(np.int32), residuals / norms)


def compare_as_the_original(query: Aggregated, image: Aggregated) -> float:
    """Merges two sorted lists of words, and counts bits byte by byte, in Python."""
    total, a, b = 0.0, 0, 0
    while a < len(query.visual_words) and b < len(image.visual_words):
        if query.visual_words[a] == image.visual_words[b]:
            pairs = zip(query.residuals[a], image.residuals[b], strict=True)
            distance = sum(bin(x ^ y).count("1") for x, y in pairs)
            u = 1 - 2 * distance / DIMENSION
            total += u**3 if u > 0 else 0
            a, b = a + 1, b + 1
        elif query.visual_words[a] > image.visual_words[b]:
            b += 1
        else:
            a += 1
    return total / np.sqrt(len(query.visual_words) * len(image.visual_words))


def draw_index(words: int, images: int) -> tuple[list[Aggregated], similarity.Postings]:
    """Queries as of one image each, and an index of images with random words."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(images):
        present = np.unique(rng.integers(0, words, WORDS_PER_IMAGE)).astype(np.int32)
        bits = rng.integers(0, 256, (len(present), DIMENSION // 8), np.uint8)
        drawn.append(Aggregated(present, bits))
    return drawn[:FEW_IMAGES], similarity.postings_of(drawn)


def print_scaled(times: dict[str, list[float]], name: str, factor: float) -> None:
    """The time of the original's way on a part, multiplied up, beside ours."""
    few = statistics.median(times.pop(name))
    times[f"{name} *"] = [few * factor]
    rounds.report(times, peer=f"{name} *")
    print(f"  * extrapolated: {factor:.0f} times what a part took")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=65536)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rounds.keep_to_one_core()
    descriptors, codebook = draw(options.words, options.features)
    print(f"words of {options.features} x {DIMENSION} among {options.words}")
    compare_assignment(descriptors, codebook, options.rounds)
    print("residuals of the words")
    compare_aggregation(descriptors, codebook, options.rounds)
    print(f"a query of ASMK* against {options.images} images")
    compare_search(options.words, options.images, options.rounds)


def compare_assignment(
    descriptors: np.ndarray, codebook: np.ndarray, count: int
) -> None:
    few = descriptors[:FEW_FEATURES]
    # As faiss, which is given them once.
    centroids = jnp.asarray(codebook)
    expected = aggregation.assign_words(descriptors, centroids)[:, 0]
    assert np.array_equal(assign_as_the_original(few, codebook), expected[: len(few)])
    contestants = {
        "ours": lambda: aggregation.assign_words(descriptors, centroids),
        "ours, five words": lambda: aggregation.assign_words(descriptors, centroids, 5),
    }
    try:
        import faiss

        faiss.omp_set_num_threads(1)
        flat = faiss.IndexFlatL2(DIMENSION)
        flat.add(codebook)
        assert np.array_equal(flat.search(descriptors, 1)[1][:, 0], expected)
        contestants["faiss IndexFlatL2"] = lambda: flat.search(descriptors, 1)
        contestants["faiss, five words"] = lambda: flat.search(descriptors, 5)
    except ImportError:
        print("  faiss is not installed and does not take part")
    times = rounds.interleave(contestants, count)
    # By itself: what it frees, the others would have to ask for again.
    name = "original's way in numpy"
    slow = {name: lambda: assign_as_the_original(few, codebook)}
    times |= rounds.interleave(slow, count)
    print_scaled(times, name, len(descriptors) / FEW_FEATURES)


def compare_aggregation(
    descriptors: np.ndarray, codebook: np.ndarray, count: int
) -> None:
    words = aggregation.assign_words(descriptors, codebook)
    loop = aggregate_in_a_loop(descriptors, words, codebook)
    ours = aggregation.aggregate_asmk(descriptors, words, codebook)
    assert np.array_equal(loop.visual_words, ours.visual_words)
    np.testing.assert_allclose(loop.residuals, ours.residuals, atol=1e-6)
    print(f"  {len(ours.visual_words)} words are present")
    name = "loop over words (jenicek/asmk's)"
    contestants = {
        name: lambda: aggregate_in_a_loop(descriptors, words, codebook),
        "ours": lambda: aggregation.aggregate_asmk(descriptors, words, codebook),
        "ours, binary": lambda: aggregation.binarize(
            aggregation.aggregate_asmk(descriptors, words, codebook)
        ),
    }
    rounds.report(rounds.interleave(contestants, count, 10), peer=name)


def compare_search(words: int, images: int, count: int) -> None:
    few, index = draw_index(words, images)
    query = few[0]
    found = similarity.asmk_similarities(query, index, dimension=DIMENSION)
    expected = [compare_as_the_original(query, image) for image in few]
    np.testing.assert_allclose(found[: len(few)], expected, atol=1e-9)
    name = "original's way, image by image"
    contestants = {
        name: lambda: [compare_as_the_original(query, image) for image in few],
        "ours": lambda: similarity.asmk_similarities(query, index, dimension=DIMENSION),
    }
    times = rounds.interleave(contestants, count)
    print_scaled(times, name, images / len(few))


if __name__ == "__main__":
    main()
