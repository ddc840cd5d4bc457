"""Export: a model for those who do not have this project.

Start with `export.py`. Then `options.py`, what is asked for and what was written;
`stablehlo.py`, a program of jax.export; `savedmodel.py` and `tf_extraction.py`, a
SavedModel of the original's signature; `onnx.py`; `traced.py`, the extraction as one
function that each of them compiles.
"""
