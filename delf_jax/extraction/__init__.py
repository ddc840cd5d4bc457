"""Extraction: a model folder and images in, features out.

Start with `extract.py`: pyramid, padded canvases, batches. Then `model_folder.py`,
which reads and writes models, and `card.py`, what is said of them; `settings.py`, what
is extracted; `config.py` and `delf_config.py`, files that say so; `canvases.py`, what
is compiled; `engines.py`, what runs it, and `openvino_graph.py`, how that gets to know
a network; `postprocessing.py`, from maps to features; `pca.py`; `boxes.py` and
`regions.py`, the features of parts of an image [D2R]. `one_call.py` is
`delf_jax.extract`.
"""
