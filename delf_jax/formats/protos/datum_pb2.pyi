from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DatumShape(_message.Message):
    __slots__ = ("dim",)
    DIM_FIELD_NUMBER: _ClassVar[int]
    dim: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, dim: _Optional[_Iterable[int]] = ...) -> None: ...

class FloatList(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, value: _Optional[_Iterable[float]] = ...) -> None: ...

class Uint32List(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, value: _Optional[_Iterable[int]] = ...) -> None: ...

class DatumProto(_message.Message):
    __slots__ = ("shape", "float_list", "uint32_list")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_LIST_FIELD_NUMBER: _ClassVar[int]
    UINT32_LIST_FIELD_NUMBER: _ClassVar[int]
    shape: DatumShape
    float_list: FloatList
    uint32_list: Uint32List
    def __init__(self, shape: _Optional[_Union[DatumShape, _Mapping]] = ..., float_list: _Optional[_Union[FloatList, _Mapping]] = ..., uint32_list: _Optional[_Union[Uint32List, _Mapping]] = ...) -> None: ...

class DatumPairProto(_message.Message):
    __slots__ = ("first", "second")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    first: DatumProto
    second: DatumProto
    def __init__(self, first: _Optional[_Union[DatumProto, _Mapping]] = ..., second: _Optional[_Union[DatumProto, _Mapping]] = ...) -> None: ...
