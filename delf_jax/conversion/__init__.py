"""Conversion: released and foreign weights become a model folder.

Start with `convert.py`. Then `weight_files.py`, what a file holds; `families.py`, whose
network it is; `names.py`, their names for our tensors; `assignment.py`, tensors found
by name or by order; `network.py`, all of that for one network; `layers.py`, what is
transposed or turned; `report.py`, the account that is printed.
"""
