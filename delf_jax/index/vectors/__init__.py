"""Global descriptors in a table of an engine that serves many of them.

Start with `seam.py`: the four functions that an engine has to have. `lance.py` is
LanceDB's; `engines.py` names those there are. `record.py` is what an index knows of its
table, `update.py` brings the table up to date with the store, `measure.py` says how
much of the nearest it finds, `find.py` searches it. The store stays what is true.
"""
