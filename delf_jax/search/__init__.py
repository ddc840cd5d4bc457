"""Search: queries against an index.

Start with `query.py`: candidates by similarity, the best verified. Then `matching.py`,
two photos compared, and candidates verified; `pipeline.py`, chains of steps such as
"alpha_qe+verification"; `steps.py`, what each does; `rerank.py`, lists that were made
elsewhere; `learned.py`, evidence of a network that `fit_reranker.py` trains;
`verdict.py`, whether it is more than chance; `calibration.py`, what evidence
is worth with a model; `pairs.py`, pairs that a file lists; `page.py`, results as one
HTML file. `match.py`, `photo_search.py` and `results.py` are what `import delf_jax`
gives of it. No ground truth is known here.
"""
