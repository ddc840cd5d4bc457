"""Formats: bytes of others in, numpy arrays out, and back.

Start with `tables.py`, CSV files as rows of named fields, and `tensor_files.py`,
safetensors. `delf/` has the files of the original, `tensorflow/` checkpoints, graphs
and records, `pickles/` PyTorch's and others' read without running them, `datasets/`
ground truths. Each reader checks sizes before it takes memory, and refuses in one
sentence.
"""
