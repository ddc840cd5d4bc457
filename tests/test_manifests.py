import json

import pytest

from delf_jax import manifests
from delf_jax.files import InputError
from delf_jax.manifests import COUNT, Is, matching, one_of, within

SCHEMA = {
    "format": one_of(1),
    "images": COUNT,
    "key": matching("[0-9a-f]{4}", "4 hex digits"),
    "model": {"name": str, "fingerprint?": str},
    "failed": {str: str},
    "scales": [float],
    "pca": ({"mean": str}, None),
    "more?": bool,
}
CONTENT = {
    "format": 1,
    "images": 3,
    "key": "00ff",
    "model": {"name": "Über", "later": [1]},
    "failed": {"a.jpg": "a.jpg: broken"},
    "scales": [0.1, 1, 1e-7],
    "pca": None,
    "later": {"x": [None, True]},
}


def _read(path, schema=SCHEMA):
    return manifests.read_manifest(path, schema, "index again")


def _fault(path, text, schema=SCHEMA):
    path.write_text(text)
    with pytest.raises(InputError) as error:
        _read(path, schema)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and message.endswith("; index again")
    return message.removeprefix(f"{path}: ").removesuffix("; index again")


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "manifest.json"
    manifests.write_manifest(path, CONTENT)
    assert _read(path) == CONTENT
    manifests.write_manifest(path, json.loads(path.read_text()) | {"images": 4})
    assert _read(path) == CONTENT | {"images": 4}


def test_written_anew_by_another_program_it_is_the_same(tmp_path):
    path = tmp_path / "manifest.json"
    manifests.write_manifest(path, CONTENT)
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False))
    assert _read(path) == CONTENT


def test_a_manifest_without_a_checksum_is_one_of_version_0_1(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(CONTENT))
    assert _read(path) == CONTENT


def test_no_flipped_bit_is_read_as_other_content(tmp_path):
    path = tmp_path / "manifest.json"
    manifests.write_manifest(path, CONTENT)
    whole = path.read_bytes()
    for place in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = _read(path)
        except InputError:
            continue
        # A flip in the name of the checksum makes the file one of version 0.1.
        assert {name: found[name] for name in CONTENT} == CONTENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "field 'format': expected 1, got 2"),
        ({"format": True}, "field 'format': expected 1, got True"),
        ({"images": -1}, "field 'images': expected an integer of at least 0, got -1"),
        ({"images": 2**63}, "field 'images': expected an integer of at least 0, got 9"),
        ({"images": 3.0}, "field 'images': expected an integer of at least 0, got 3.0"),
        ({"key": "../x"}, "field 'key': expected 4 hex digits, got '../x'"),
        ({"key": "00ff\n"}, "field 'key': expected 4 hex digits, got '00ff\\n'"),
        ({"model": "m"}, "field 'model': expected fields, got 'm'"),
        ({"model": {}}, "field model.name is missing"),
        ({"failed": {"a": 1}}, "field 'failed.a': expected a string, got 1"),
        ({"failed": [1]}, "field 'failed': expected fields, got [1]"),
        ({"scales": [1, "2"]}, "field 'scales[1]': expected a finite number, got '2'"),
        ({"scales": [10**400]}, "field 'scales[0]': expected a finite number, got 1"),
        ({"scales": {"0": 1}}, "field 'scales': expected a list, got {'0': 1}"),
        ({"pca": []}, "field 'pca': expected fields or null, got []"),
        ({"pca": {"mean": 1}}, "field 'pca.mean': expected a string, got 1"),
        ({"more": 1}, "field 'more': expected true or false, got 1"),
    ],
)
def test_a_field_of_another_kind_is_named(tmp_path, change, message):
    found = _fault(tmp_path / "m.json", json.dumps(CONTENT | change))
    assert found.startswith(message)


@pytest.mark.parametrize("field", [f for f in SCHEMA if not f.endswith("?")])
def test_a_missing_field_is_named(tmp_path, field):
    text = json.dumps({k: v for k, v in CONTENT.items() if k != field})
    assert _fault(tmp_path / "m.json", text) == f"field {field} is missing"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}",
    ],
)
def test_what_is_no_json_of_ours_is_one_sentence(tmp_path, text):
    assert _fault(tmp_path / "m.json", text).startswith("not valid JSON (")


@pytest.mark.parametrize("text", ["[]", "null", '"text"', "3"])
def test_a_value_without_fields_is_one_sentence(tmp_path, text):
    assert _fault(tmp_path / "m.json", text) == "expected fields in JSON"


def test_a_deep_value_below_the_limit_of_the_parser_is_no_crash(tmp_path):
    path = tmp_path / "m.json"
    for depth in range(100, 3000, 100):
        value = '{"a":' * depth + "1" + "}" * depth
        path.write_text(f'{{"checksum": "0", "deep": {value}}}')
        with pytest.raises(InputError):
            _read(path)


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "m.json").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match=r"m\.json: is a symbolic link"):
        manifests.write_manifest(tmp_path / "m.json", CONTENT)
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("a/b.jpg", True),
        ("..a/b..jpg", True),
        ("a/../b.jpg", False),
        ("..", False),
        ("/a.jpg", False),
        ("a\0.jpg", False),
    ],
)
def test_a_path_stays_within_its_folder_or_does_not(path, good):
    assert manifests.is_inside(path) == good


@pytest.mark.parametrize("path", [r"C:\a.jpg", "C:a.jpg", r"a\..\..\b", r"\\host\a"])
def test_on_windows_drives_and_backslashes_lead_out(path, monkeypatch):
    monkeypatch.setattr(manifests, "_ON_WINDOWS", True)
    assert not manifests.is_inside(path)
    assert manifests.is_inside(r"a\b.jpg")


def test_kinds_say_what_they_are():
    assert within(2, 9).words == "an integer from 2 to 9"
    assert one_of("a", "b").words == 'one of "a", "b"'
    even = Is("an even number", lambda value: value % 2 == 0)
    with pytest.raises(InputError, match=r"^x: field '\[1\]': expected an even number"):
        manifests.check([2, 3], [even], "x", "fit again")
