"""Networks: Flax modules, arrays and parameters in, arrays out.

Start with `delg.py`, local and global features of one backbone. Then `resnet.py`, the
backbone and its layouts; `delf.py`, the local branch; `global_net.py` and `how.py`, the
other networks; `detectors/`, those that find boxes; `set_similarity.py` compares the
local descriptors of two photos; `layers.py`, `convolution.py` and `pooling.py`, what
they are built of. `architecture.py` builds a network by name, `receptive_field.py` says
what pixels a cell of a map has seen.
"""
