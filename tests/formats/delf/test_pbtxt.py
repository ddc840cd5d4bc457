import json

import pytest
from google.protobuf import json_format

from delf_jax.files import InputError
from delf_jax.formats.delf import pbtxt
from delf_jax.formats.delf.pbtxt import read_pbtxt
from delf_jax.formats.protos.aggregation_config_pb2 import AggregationConfig
from delf_jax.formats.protos.delf_config_pb2 import DelfConfig

GOOD = ["config_defaults", "config_full", "aggregation", "aggregation_enum_number"]
MESSAGES = {"DelfConfig": DelfConfig, "AggregationConfig": AggregationConfig}
BAD = {
    "bad_unknown_field": 'line 1: .*DelfConfig" has no field named "model_pth"',
    "bad_enum": "line 1: .* has no value named BOW",
    "bad_repeated_scalar": 'line 2: .* multiple "max_image_size" fields',
    "bad_type": "line 1: .*Couldn't parse integer: 1.5",
    "bad_unclosed": 'line 1: Expected "}"',
}


def _described(golden, name):
    stored = json.loads((golden / "formats" / "formats.json").read_text())
    described = stored["synthetic_configs"][f"{name}.pbtxt"]
    return described, MESSAGES[described["message"]]


@pytest.mark.golden
@pytest.mark.parametrize("name", GOOD)
def test_text_configs_are_read_as_the_original_reads_them(golden, name):
    described, kind = _described(golden, name)
    message = read_pbtxt(golden / "formats" / f"{name}.pbtxt", kind)
    names = {"preserving_proto_field_name": True}
    assert json_format.MessageToDict(message, **names) == described["Parse"]
    for field, value in described["with_defaults"].items():
        if not isinstance(value, dict | str):
            assert getattr(message, field) == pytest.approx(value, rel=1e-6), field


@pytest.mark.golden
@pytest.mark.parametrize("name", BAD)
def test_what_the_original_refuses_is_named_with_its_line(golden, name):
    described, kind = _described(golden, name)
    assert "ParseError" in described["Parse"]["error"]
    with pytest.raises(InputError, match=BAD[name]) as caught:
        read_pbtxt(golden / "formats" / f"{name}.pbtxt", kind)
    assert f"{name}.pbtxt, line" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.golden
@pytest.mark.filterwarnings("ignore:.*invalid escape sequence:DeprecationWarning")
def test_no_damaged_byte_is_more_than_an_error(golden, tmp_path, monkeypatch):
    data = (golden / "formats" / "config_full.pbtxt").read_bytes()
    files, refused = {}, 0
    monkeypatch.setattr(pbtxt.messages, "read_bytes", files.__getitem__)
    for place in range(len(data)):
        flipped = [bytes([data[place] ^ flip]) for flip in (0x01, 0x20, 0x80)]
        for byte in [b"", *flipped]:
            files["broken"] = data[:place] + byte + data[place + 1 :]
            try:
                read_pbtxt("broken", DelfConfig)
            except InputError as error:
                assert str(error).startswith("broken")
                refused += 1
    assert refused > len(data)


def test_defaults_are_the_originals(tmp_path):
    (tmp_path / "a.pbtxt").write_text("# nothing")
    config = read_pbtxt(tmp_path / "a.pbtxt", DelfConfig)
    local = config.delf_local_config
    found = [local.use_pca, local.iou_threshold, local.max_feature_num]
    assert [*found, local.score_threshold] == [True, 1.0, 1000, 100.0]
    assert not local.pca_parameters.use_whitening and config.delf_global_config.use_pca
    config = read_pbtxt(tmp_path / "a.pbtxt", AggregationConfig)
    assert (config.codebook_size, config.feature_dimensionality) == (65536, 128)
    assert config.aggregation_type == AggregationConfig.ASMK_STAR


def test_what_is_not_text_is_named(tmp_path):
    (tmp_path / "a.pbtxt").write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match=r"a\.pbtxt: not UTF-8 text"):
        read_pbtxt(tmp_path / "a.pbtxt", DelfConfig)
    with pytest.raises(InputError, match="no such file"):
        read_pbtxt(tmp_path / "absent.pbtxt", DelfConfig)
