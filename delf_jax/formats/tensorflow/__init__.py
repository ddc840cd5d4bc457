"""TensorFlow's files, without TensorFlow.

Start with `saved_model.py`, and `tensorbundle.py` for checkpoints, which lie in a
`sorted_table.py`, compressed by `snappy.py`, checked by `crc32c.py`. Graphs are read by
`graph_def.py`, `object_graph.py` and `tensor_proto.py`, over the bytes of `wire.py`.
`tfrecord.py` and `tf_example.py` read and write records of training images.
"""
