import pytest

from delf_jax.extraction.delf_config import read_aggregation_config, read_delf_config
from delf_jax.files import InputError

PLAIN = "delf_local_config { use_pca: false }"


@pytest.fixture
def read(tmp_path):
    """The config, and the lines to be shown, of a text."""

    def read(text):
        (tmp_path / "a.pbtxt").write_text(text)
        config, lines = read_delf_config(tmp_path / "a.pbtxt")
        return config.extraction, [line.partition("a.pbtxt: ")[2] for line in lines]

    return read


def test_defaults_are_the_originals(read):
    extraction, lines = read(PLAIN)
    assert extraction.to_dict() == {
        "image_scales": (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0),
        "global_scales": (),
        "max_image_size": 0,
        "min_image_size": 0,
        "use_square_images": False,
        "use_resized_coordinates": False,
        "max_features": 1000,
        "attention_threshold": 100.0,
        "locations": "delf",
        "pca": {"mean": ""},
        "global_pca": {"mean": ""},
    }
    assert lines == []


def test_global_features_are_of_all_scales_or_of_those_that_are_named(read):
    text = "use_local_features: false use_global_features: true image_scales: [1, .5] "
    extraction, _ = read(text + "delf_global_config { use_pca: false }")
    assert extraction.global_scales == (0, 1) and extraction.max_features == 0
    text += "delf_global_config { use_pca: false image_scales_ind: 1 }"
    assert read(text)[0].global_scales == (1,)


def test_projections_become_paths(read):
    pca = 'mean_path: "m" projection_matrix_path: "p" pca_dim: 40 '
    whiten = 'use_whitening: true pca_variances_path: "v"'
    extraction, _ = read(
        "use_global_features: true "
        f"delf_local_config {{ pca_parameters {{ {pca} }} }} "
        f"delf_global_config {{ pca_parameters {{ {pca} {whiten} }} }}"
    )
    expected = {"mean": "m", "projection": "p", "dimension": 40}
    assert extraction.pca.to_dict() == expected
    expected |= {"use_whitening": True, "variances": "v"}
    assert extraction.global_pca.to_dict() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"delf_local_config\.pca_parameters\.mean_path is missing"),
        (PLAIN + "use_global_features: true", r"delf_global_config\..*mean_path"),
        (
            'delf_local_config { pca_parameters { mean_path: "m" '
            'projection_matrix_path: "p" pca_dim: 4 use_whitening: true } }',
            "pca_variances_path is missing",
        ),
        ("use_local_features: false", "neither use_local_features nor"),
    ],
)
def test_what_the_original_would_fail_on_is_named(read, text, words):
    with pytest.raises(InputError, match=rf"a\.pbtxt: .*{words}"):
        read(text)


def test_fields_without_effect_are_listed(read):
    text = 'layer_name: "block3" iou_threshold: 0.5 use_pca: false'
    _, lines = read(f"is_tf2_exported: true delf_local_config {{ {text} }}")
    assert lines == [
        "is_tf2_exported: True has no effect",
        "layer_name: block3 has no effect",
        "iou_threshold: 0.5 has no effect",
    ]
    _, lines = read("delf_local_config { iou_threshold: 0.7 use_pca: false }")
    assert lines == ["iou_threshold: 0.7 has no effect"]
    _, lines = read("delf_local_config { iou_threshold: 1 use_pca: false }")
    assert lines == []


def test_a_config_of_aggregation_is_refused_by_its_name(read):
    with pytest.raises(InputError, match="an AggregationConfig; .* a DelfConfig"):
        read("codebook_size: 1024 aggregation_type: VLAD")
    with pytest.raises(InputError, match='no field named "codebook_sise"'):
        read("codebook_sise: 1024")


@pytest.mark.golden
def test_aggregation_configs_become_ours(golden):
    config = read_aggregation_config(golden / "formats" / "aggregation.pbtxt")
    assert config.to_dict() == {
        "aggregation": "asmk_star",
        "codebook": "x/codebook",
        "codebook_size": 1024,
        "dimension": 40,
        "assignments": 3,
        "regional": True,
        "normalize": False,
        "alpha": 3.5,
        "tau": float("-inf"),
        "batch_size": 100,
    }
    name = "aggregation_enum_number.pbtxt"
    config = read_aggregation_config(golden / "formats" / name)
    assert (config.aggregation, config.batch_size, config.alpha) == ("asmk", 0, 3.0)


def test_an_invalid_aggregation_is_refused(tmp_path):
    (tmp_path / "a.pbtxt").write_text("aggregation_type: INVALID")
    with pytest.raises(InputError, match="use VLAD, ASMK or ASMK_STAR"):
        read_aggregation_config(tmp_path / "a.pbtxt")
