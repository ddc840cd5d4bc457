"""Commands: what each command of `cli.py` does, and its options.

Start with `search.py`: match, search, rerank, demo. Then the modules named as the
wings: `extraction.py`, `index.py`, `evaluation.py`, `gldv2.py`, `data.py`,
`training.py`, `models.py`. `options.py` has what several share, `completion.py` the
script for shells. All that is slow to import is imported by the function that needs it,
so that --help answers at once.
"""
