"""Rankings from similarities, and from similarities and verified inliers together."""

import numpy as np
from jaxtyping import Float, Int

# About as many inliers as unrelated photos reach by chance.
NOISE = 8


def top_k(
    similarities: Float[np.ndarray, "*Q M"], k: int | None = None
) -> Int[np.ndarray, "*Q K"]:
    """Ids of the k most similar, best first; equals in the order of their ids.

    `k` of None, or of M and more, ranks all.
    """
    similarities = np.asarray(similarities)
    size = similarities.shape[-1]
    k = size if k is None else min(k, size)
    if 0 < k < size // 8 and similarities.ndim == 1:
        # Sorting the few that can be among the first k, ties at the border included.
        border = np.partition(similarities, -k)[-k]
        ids = np.flatnonzero(similarities >= border)
        order = ids[np.argsort(-similarities[ids], kind="stable")]
    else:
        order = np.argsort(-similarities, axis=-1, kind="stable")
    return order[..., :k].astype(np.int32)


def rerank(
    candidates: Int[np.ndarray, " K"],
    similarities: Float[np.ndarray, " K"],
    inliers: Int[np.ndarray, " K"],
    *,
    noise: int = NOISE,
    weight: float = 2.0,
) -> Int[np.ndarray, " K"]:
    """The candidates, best first, by inliers and similarity together.

    Args:
      candidates: image ids, in any order.
      similarities: of the global descriptors, cosines in [-1, 1].
      weight: of the evidence, log2(1 + inliers / noise), against the cosine. At 2,
        twice the inliers outweigh any difference of cosines once they exceed the
        noise; below it both count. Infinite: inliers decide alone, similarity
        breaks ties, as in the released code.
    """
    evidence = np.log2(1 + np.asarray(inliers, np.float64) / noise)
    similarities = np.asarray(similarities, np.float64)
    if np.isinf(weight):
        order = np.lexsort((candidates, -similarities, -evidence))
    else:
        order = np.lexsort((candidates, -(similarities + weight * evidence)))
    return np.asarray(candidates)[order].astype(np.int32)
