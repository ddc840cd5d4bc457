"""The command that aggregates local features: aggregate.

Everything slow is imported inside.
"""

import argparse
from typing import Any

from delf_jax.commands import shared
from delf_jax.files import InputError


def add_aggregate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="folder of a feature store")
    parser.add_argument("--codebook", metavar="DIR", help="its visual words")
    shared.add_out(parser, "folder to write to", required=True)
    kinds = ("vlad", "asmk", "asmk_star")
    shared.add_choice(parser, "to", kinds, "files of DELF, one an image: ")
    parser.add_argument(
        "--float", action="store_true", help="an inverted file of ASMK, not ASMK*"
    )
    parser.add_argument(
        "--regional", action="store_true", help="R-ASMK*, of a store with boxes"
    )
    parser.add_argument("--idf", action="store_true", help="weigh words by rarity")
    parser.add_argument(
        "--assignments", type=int, metavar="N", help="words of a descriptor (1)"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="an aggregation .pbtxt of DELF"
    )


def run_aggregate(options: argparse.Namespace) -> int:
    if options.rest:
        raise InputError(
            f"{options.rest[0]}: aggregate takes no fields; use its options"
        )
    if options.to and (options.float or options.idf):
        raise InputError("--float and --idf: are of an inverted file, leave out --to")
    config = _read_config(options)
    codebook = options.codebook or (config and config.codebook)
    if not codebook:
        raise InputError("aggregate: name a codebook with --codebook")
    shared.prepare_jax()
    from delf_jax import aggregated_files, aggregating, inverted_build, store

    assignments = options.assignments
    if assignments is None:
        assignments = config.assignments if config else 1
    regional = options.regional or bool(config and config.regional)
    words = aggregating.load_words(codebook, assignments)._replace(regional=regional)
    _check_size(options, config, words.codebook.centroids.shape)
    images = store.open_store(options.store)
    given = {"images": images, "words": words, "out": options.out}
    rule = inverted_build.default_rule(regional)._replace(idf=options.idf)
    if config:
        rule = rule._replace(
            alpha=config.alpha, tau=config.tau, normalize=config.normalize
        )
    if options.to:
        report = aggregated_files.write_aggregated(
            **given, kind=options.to, normalize=config is None or config.normalize
        )
    else:
        asmk = options.float or (config and config.aggregation == "asmk")
        report = inverted_build.update_inverted_file(
            **given, binary=not asmk, rule=rule
        )
    return shared.tell_report(report, options.out, done="aggregated")


def _read_config(options: argparse.Namespace) -> Any:
    """The config of the original, or None; InputError if it says what is not done."""
    if not options.config:
        return None
    from delf_jax import original_config

    config = original_config.read_aggregation_config(options.config)
    kind = config.aggregation
    if options.to and options.to != kind:
        raise InputError(
            f"{options.config}: aggregation_type is {kind.upper()}, not "
            f"{options.to.upper()} as --to says"
        )
    if not options.to and kind == "vlad":
        raise InputError(
            f"{options.config}: VLAD has no inverted file; write files with --to=vlad"
        )
    if options.regional and not config.regional:
        raise InputError(
            f"{options.config}: use_regional_aggregation is false: leave out --regional"
        )
    return config


def _check_size(
    options: argparse.Namespace, config: Any, shape: tuple[int, int]
) -> None:
    if config and shape != (config.codebook_size, config.dimension):
        raise InputError(
            f"{options.config}: codebook_size {config.codebook_size} and "
            f"feature_dimensionality {config.dimension} are not those of the codebook, "
            f"{shape[0]} and {shape[1]}"
        )
