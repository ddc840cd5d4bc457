"""A store and a codebook that most tests of indexes build on."""

import pytest

from tests.helpers.inverted_files import IDS, draw_words, fill_store


@pytest.fixture
def images(tmp_path):
    return fill_store(tmp_path / "store", IDS)


@pytest.fixture
def words(tmp_path):
    return draw_words(tmp_path / "codebook")
