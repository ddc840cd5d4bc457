"""Retrieval: kernels and geometry, features in, rankings and measures out.

Start with `similarity.py` and `ranking.py`. Then `matching.py`, `affine.py` and
`verification.py`, two photos compared; `aggregation.py` and `inverted.py`, ASMK and
VLAD; `nearest.py` and `kmeans.py`; `reranking.py` and `voting.py`; `whitening.py`;
`metrics.py`, `gldv2_metrics.py` and `bootstrap.py`, how good a ranking is.
"""
