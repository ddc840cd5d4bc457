"""Pickles of others, read by a machine that builds plain data alone.

Start with `unpickler.py`, the machine: it calls nothing that a file names. Then
`plain_data.py`, dicts and lists, as ground truths are; `arrays.py`, numpy's arrays in
them; `pytorch.py`, state dicts, zipped or of before 2020. Nothing is run, and memory is
bounded by the size of the file.
"""
