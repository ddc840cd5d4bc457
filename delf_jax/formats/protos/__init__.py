"""The original's messages: field numbers and package as in its files, words are ours.

The generated modules came from the .proto files beside them with protoc 31.1, and run
with every protobuf from 6.31.1 on. To generate them again, into delf/protos/:

    pip install grpcio-tools==1.74
    python -m grpc_tools.protoc -Idelf/protos=delf_jax/formats/protos --python_out=. \
        --pyi_out=. \
        delf/protos/{datum,feature,box,delf_config,aggregation_config}.proto

and let feature_pb2.py and .pyi import datum_pb2 from this package. The files keep the
names that they have in the original, so that both can be loaded by one program.
"""
