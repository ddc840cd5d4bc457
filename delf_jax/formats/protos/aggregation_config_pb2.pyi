from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AggregationConfig(_message.Message):
    __slots__ = ("codebook_size", "feature_dimensionality", "aggregation_type", "use_l2_normalization", "codebook_path", "num_assignments", "use_regional_aggregation", "alpha", "tau", "feature_batch_size")
    class AggregationType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INVALID: _ClassVar[AggregationConfig.AggregationType]
        VLAD: _ClassVar[AggregationConfig.AggregationType]
        ASMK: _ClassVar[AggregationConfig.AggregationType]
        ASMK_STAR: _ClassVar[AggregationConfig.AggregationType]
    INVALID: AggregationConfig.AggregationType
    VLAD: AggregationConfig.AggregationType
    ASMK: AggregationConfig.AggregationType
    ASMK_STAR: AggregationConfig.AggregationType
    CODEBOOK_SIZE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_DIMENSIONALITY_FIELD_NUMBER: _ClassVar[int]
    AGGREGATION_TYPE_FIELD_NUMBER: _ClassVar[int]
    USE_L2_NORMALIZATION_FIELD_NUMBER: _ClassVar[int]
    CODEBOOK_PATH_FIELD_NUMBER: _ClassVar[int]
    NUM_ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    USE_REGIONAL_AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    TAU_FIELD_NUMBER: _ClassVar[int]
    FEATURE_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    codebook_size: int
    feature_dimensionality: int
    aggregation_type: AggregationConfig.AggregationType
    use_l2_normalization: bool
    codebook_path: str
    num_assignments: int
    use_regional_aggregation: bool
    alpha: float
    tau: float
    feature_batch_size: int
    def __init__(self, codebook_size: _Optional[int] = ..., feature_dimensionality: _Optional[int] = ..., aggregation_type: _Optional[_Union[AggregationConfig.AggregationType, str]] = ..., use_l2_normalization: bool = ..., codebook_path: _Optional[str] = ..., num_assignments: _Optional[int] = ..., use_regional_aggregation: bool = ..., alpha: _Optional[float] = ..., tau: _Optional[float] = ..., feature_batch_size: _Optional[int] = ...) -> None: ...
