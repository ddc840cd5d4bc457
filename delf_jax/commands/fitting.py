"""The command that fits codebooks and projections to descriptors: fit.

Everything slow is imported inside.
"""

import argparse

from delf_jax.commands import shared
from delf_jax.files import InputError


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    codebook = kinds.add_parser("codebook", help="visual words, by k-means")
    pca = kinds.add_parser("pca", help="a projection of descriptors")
    learned = kinds.add_parser(
        "whitening", help="a projection of global descriptors, from matching pairs"
    )
    for kind in (codebook, pca, learned):
        kind.add_argument("store", metavar="STORE", help="folder of a feature store")
        shared.add_out(kind, "folder to write to", required=True)
    for name, default, meaning in (
        ("words", None, "visual words (1024, or as --config says)"),
        ("iterations", 20, "passes over the store, or over as many batches (20)"),
        ("batch", None, "draw so many at a time; without it all descriptors are taken"),
        ("seed", 0, "of all that is drawn (0)"),
    ):
        codebook.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=meaning
        )
    codebook.add_argument(
        "--start",
        choices=("sample", "kmeans++"),
        default="sample",
        help="descriptors to start from: any (sample), or some far apart",
    )
    codebook.add_argument(
        "--config", metavar="FILE", help="a .pbtxt of DELF that says codebook_size"
    )
    pca.add_argument(
        "--dimension", type=int, required=True, metavar="N", help="components kept"
    )
    shared.add_choice(pca, "of", ("local", "global"), "descriptors: ", default="local")
    learned.add_argument(
        "--pairs",
        metavar="FILE",
        help="images that match: a CSV of query,positive, or a .pkl of SfM-120k "
        "(default: those of one folder match)",
    )
    learned.add_argument(
        "--dimension", type=int, metavar="N", help="components kept (all)"
    )
    pca.add_argument(
        "--whiten", action="store_true", help="components get unit variance"
    )


def run_fit(options: argparse.Namespace) -> int:
    shared.prepare_jax()
    if options.kind != "codebook":
        return _fit_projection(options)
    from delf_jax import fitting

    given = {"store": options.store, "out": options.out}
    codebook = fitting.fit_codebook(
        **given,
        words=_words(options),
        iterations=options.iterations,
        batch=options.batch,
        seed=options.seed,
        start=options.start,
    )
    info = codebook.info
    print(
        f"{options.out}: {info['words']} words of {info['dimension']} dimensions, from "
        f"{info['descriptors']} descriptors of {info['images']} images in "
        f"{info['iterations']} iterations"
    )
    return 0


def _fit_projection(options: argparse.Namespace) -> int:
    from delf_jax import image_pairs, projections

    if options.kind == "pca":
        chosen = projections.fit_pca(
            *(options.store, options.out),
            dimension=options.dimension,
            of=options.of,
            whiten=options.whiten,
        )
    else:
        pairs = image_pairs.read_pairs(options.pairs) if options.pairs else None
        chosen = projections.fit_whitening(
            options.store, pairs, options.out, dimension=options.dimension
        )
    print(projections.describe(options.out))
    print("to extract with them:")
    print(*(f"  --config.{name}={value}" for name, value in chosen.items()), sep="\n")
    return 0


def _words(options: argparse.Namespace) -> int:
    """How many visual words are asked for, by an option or a config of the original."""
    if options.rest:
        raise InputError(f"{options.rest[0]}: fit takes no fields; use --words")
    if not options.config:
        return 1024 if options.words is None else options.words
    from delf_jax import descriptors, original_config

    config = original_config.read_aggregation_config(options.config)
    found = descriptors.open_descriptors(options.store).dimension
    if config.dimension != found:
        raise InputError(
            f"{options.config}: feature_dimensionality is {config.dimension}; the "
            f"descriptors of {options.store} have {found}"
        )
    return config.codebook_size if options.words is None else options.words
