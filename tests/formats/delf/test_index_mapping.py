"""The mapping of a regional index."""

import pytest

from delf_jax.files import InputError
from delf_jax.formats.delf.index_mapping import (
    WHOLE_IMAGE,
    IndexBox,
    read_index_mapping,
    write_index_mapping,
)

# The lines of an original mapping.
TEXT = (
    "name,index_image_id,box_id\n"
    "radcliffe_camera_000158,2,-1\n"
    "radcliffe_camera_000158_0,2,0\n"
)
BOXES = [
    IndexBox("radcliffe_camera_000158", 2, WHOLE_IMAGE),
    IndexBox("radcliffe_camera_000158_0", 2, 0),
]


def test_a_mapping_is_read_and_written_back_byte_by_byte(tmp_path):
    path = tmp_path / "index_mapping.csv"
    path.write_text(TEXT)
    assert read_index_mapping(path) == BOXES
    write_index_mapping(tmp_path / "written.csv", BOXES)
    assert (tmp_path / "written.csv").read_bytes() == TEXT.encode()


@pytest.mark.parametrize("line", ["a,-1,0", "a,0,-2"])
def test_ids_that_make_no_sense_are_refused(tmp_path, line):
    path = tmp_path / "index_mapping.csv"
    path.write_text(f"{TEXT}{line}\n")
    with pytest.raises(InputError, match=r"row 2 \(a\): image .* box"):
        read_index_mapping(path)
