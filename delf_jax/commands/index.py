"""Commands on what a search needs: index, fit, aggregate."""

import argparse
from typing import Any

from delf_jax.commands.detection import finder
from delf_jax.commands.options import (
    Parser,
    model_and_settings,
    prepare_jax,
    print_report,
    print_shortfall,
)
from delf_jax.files import InputError
from delf_jax.progress import format_count, print_results, printable


def add_index_options(parser: Parser) -> None:
    parser.usage = "%(prog)s PATH ... --index DIR [option ...]"
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="images, folders, @LIST"
    )
    parser.add_value("--index", "DIR", "folder of the index", required=True)
    parser.add_value("--add", "PATH", "images to add", nargs="+")
    parser.add_value("--remove", "ID", "images to remove", nargs="+")
    parser.add_value("--root", "DIR", "where the folder of its images is now")
    parser.add_detect()
    parser.add_ray()
    parser.add_prune()
    table = "serve descriptors from a table of lancedb, or lancedb:URI"
    parser.add_value("--vectors", "ENGINE", table)
    least = "refuse a table that finds less of the nearest (0.95)"
    parser.add_value("--recall", "SHARE", least, type=_share)
    parser.add_settings()


def _share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def run_index(options: argparse.Namespace) -> int:
    from delf_jax.index import photo_index

    asked = [options.paths, options.add, options.remove, options.root]
    changes = sum(map(bool, asked))
    if changes > 1 or not changes and not options.prune:
        raise InputError(
            "index: give photos to index, or --add, --remove, --root or --prune"
        )
    if options.detect and not (options.paths or options.add):
        raise InputError("--detect goes with photos to index, or with --add")
    if options.vectors and not (options.paths or options.add):
        raise InputError("--vectors goes with photos to index, or with --add")
    if options.recall is not None and not options.vectors:
        raise InputError("--recall goes with --vectors")
    if options.prune and (options.remove or options.root):
        raise InputError("--prune: use it alone, with photos to index, or with --add")
    if options.paths or options.add:
        return _index_photos(options)
    if options.root:
        found, total = photo_index.move_root(options.index, options.root)
        text = f"{found} of {format_count(total, 'photo')} found in {options.root}"
    else:
        ids = options.remove or _print_absent(options.index, prune=True).gone
        left = photo_index.remove_images(options.index, ids)
        text = f"{len(set(ids))} removed, {left} left"
    _print_table(options.index)
    print_results(f"{options.index}: {text}")
    return 0


def _wanted(options: argparse.Namespace) -> Any:
    """The table that --vectors asks for, or None."""
    if not options.vectors:
        return None
    from delf_jax.index.vectors import engines, update

    engines.parse_engine(options.vectors)
    least = update.LEAST if options.recall is None else options.recall
    return update.Wanted(options.vectors, least)


def _print_table(directory: str) -> None:
    """What the table of an index finds, if it has one."""
    from delf_jax.index.vectors import find

    if summary := find.summary(directory):
        print_results(summary)


def _index_photos(options: argparse.Namespace) -> int:
    from delf_jax.index import photo_index

    wanted = _wanted(options)
    model, settings = model_and_settings(options, options.index)
    change = photo_index.add_images if options.add else photo_index.make_index
    paths = options.add or options.paths
    find = finder(options.detect, options.index, options.ray)
    report = change(
        paths,
        options.index,
        model,
        settings,
        find_regions=find,
        vectors=wanted,
        ray=options.ray,
    )
    if report.kept:
        gone, away = _print_absent(options.index, prune=options.prune)
        if options.prune:
            photo_index.remove_images(options.index, gone)
            report = report._replace(removed=len(gone), kept=len(away))
    _print_table(options.index)
    return print_report(report, options.index, kept="absent")


def _print_absent(directory: str, *, prune: bool) -> Any:
    """The photos whose files are not there, once what becomes of them is printed."""
    from delf_jax.index import photo_index

    absent = photo_index.absent_images(directory)
    gone, away = (format_count(len(ids), "photo") for ids in absent)
    if absent.gone:
        then = "forgetting" if prune else "kept; --prune forgets"
        them = f"{gone}, such as {printable(absent.gone[0])}"
        print_results(f"{directory}: {them}: not found, {then} them")
    if absent.away:
        them = f"{away}, such as {printable(absent.away[0])}"
        print_results(
            f"{directory}: {them}: kept, as their folder is absent or empty; if the "
            "folder of the index is elsewhere now, name it with --root"
        )
    return absent


def add_fit_options(parser: Parser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    codebook = kinds.add_parser("codebook", help="visual words, by k-means")
    pca = kinds.add_parser("pca", help="a projection of descriptors")
    learned = kinds.add_parser(
        "whitening", help="a projection of global descriptors, from matching pairs"
    )
    reranker = kinds.add_parser(
        "reranker", help="a network that compares local features, for rankings"
    )
    confirmed = kinds.add_parser(
        "pairs", help="photos of one place, verified, to train local features from"
    )
    for kind in (codebook, pca, learned, reranker, confirmed):
        kind.add_argument("store", metavar="STORE", help="folder of a feature store")
    for kind in (codebook, pca, learned, reranker):
        kind.add_out("folder to write to", required=True)
    out = "CSV to write, for config.data.pairs"
    confirmed.add_file("--out", out, "OUT", required=True)
    each = "photos that each is compared with, the most similar (10)"
    confirmed.add_number("--candidates", each, default=10)
    passes = "passes over the store, or over as many batches (20)"
    codebook.add_number("--words", "visual words (1024, or as in --config)")
    codebook.add_number("--iterations", passes, default=20)
    codebook.add_number("--batch", "descriptors drawn at a time (all, not drawn)")
    for kind in (codebook, reranker):
        kind.add_number("--seed", "of the random numbers (0)", default=0)
    first = "first centroids: random descriptors (sample), or k-means++"
    starts = ("sample", "kmeans++")
    codebook.add_argument("--start", choices=starts, default=starts[0], help=first)
    codebook.add_value("--config", "FILE", "a .pbtxt of DELF with its codebook_size")
    pca.add_number("--dimension", "components kept", required=True)
    pca.add_choice("--of", ("local", "global"), "descriptors: ", default="local")
    pairs = "images that match: a CSV of query,positive, or a .pkl of SfM-120k"
    default = "(default: those of one folder match)"
    for kind in (learned, reranker):
        kind.add_value("--pairs", "FILE", f"{pairs} {default}")
    reranker.add_number("--steps", "of training (600)", default=600)
    learned.add_number("--dimension", "components kept (all)")
    pca.add_flag("--whiten", "components get unit variance")
    pca.add_flag("--half_whiten", "they are divided by the root of their deviation")


def run_fit(options: argparse.Namespace) -> int:
    prepare_jax()
    from delf_jax.store import feature_store

    print_shortfall(feature_store.open_store(options.store))
    if options.kind == "reranker":
        return _fit_reranker(options)
    if options.kind == "pairs":
        return _confirm_pairs(options)
    if options.kind != "codebook":
        return _fit_projection(options)
    from delf_jax.index import fit_codebook

    codebook = fit_codebook.fit_codebook(
        options.store,
        options.out,
        words=_words(options),
        iterations=options.iterations,
        batch=options.batch,
        seed=options.seed,
        start=options.start,
    )
    info = codebook.info
    dimensions = format_count(info["dimension"], "dimension")
    words, descriptors, images, iterations = (
        format_count(info[f"{unit}s"], unit)
        for unit in ("word", "descriptor", "image", "iteration")
    )
    print_results(
        f"{options.out}: {words} of {dimensions}, from {descriptors} of {images} in "
        f"{iterations}"
    )
    return 0


def _fit_projection(options: argparse.Namespace) -> int:
    from delf_jax.index import fit_projection, positive_pairs

    if options.kind == "pca" and options.whiten and options.half_whiten:
        raise InputError("--whiten, --half_whiten: use one of them")
    if options.kind == "pca":
        fields = fit_projection.fit_pca(
            options.store,
            options.out,
            dimension=options.dimension,
            of=options.of,
            whiten=options.whiten,
            half_whiten=options.half_whiten,
        )
    else:
        pairs = positive_pairs.read_pairs(options.pairs) if options.pairs else None
        fields = fit_projection.fit_whitening(
            options.store, pairs, options.out, dimension=options.dimension
        )
    print_results(fit_projection.format_summary(options.out), "to extract with it:")
    print_results(*(f"  --config.{name}={value}" for name, value in fields.items()))
    return 0


def _fit_reranker(options: argparse.Namespace) -> int:
    from delf_jax.index import positive_pairs
    from delf_jax.search import fit_reranker

    pairs = positive_pairs.read_pairs(options.pairs) if options.pairs else None
    fitted = fit_reranker.fit_reranker(
        options.store, pairs, options.out, steps=options.steps, seed=options.seed
    )
    print_results(fit_reranker.format_summary(fitted), "to rank with it:")
    print_results(f"  evaluate ... --rerank=learned --reranker={options.out}")
    return 0


def _confirm_pairs(options: argparse.Namespace) -> int:
    from delf_jax.search.confirm_pairs import LEAST_INLIERS, confirm_pairs

    pairs = confirm_pairs(options.store, options.out, candidates=options.candidates)
    found = format_count(len(pairs), "pair")
    print_results(f"{options.out}: {found} that share {LEAST_INLIERS} inliers or more")
    return 0


def _words(options: argparse.Namespace) -> int:
    """How many visual words to fit, by --words or a config of the original."""
    if options.rest:
        raise InputError(f"{options.rest[0]}: fit takes no fields; use --words")
    if not options.config:
        return 1024 if options.words is None else options.words
    from delf_jax.extraction import delf_config
    from delf_jax.store import local_descriptors

    config = delf_config.read_aggregation_config(options.config)
    found = local_descriptors.open_descriptors(options.store).dimension
    if config.dimension != found:
        raise InputError(
            f"{options.config}: feature_dimensionality is {config.dimension}; the "
            f"descriptors of {options.store} have {found}"
        )
    return config.codebook_size if options.words is None else options.words


def add_aggregate_options(parser: Parser) -> None:
    parser.add_argument("store", metavar="STORE", help="folder of a feature store")
    parser.add_value("--codebook", "DIR", "its visual words")
    parser.add_out("folder to write to", required=True)
    kinds = ("vlad", "asmk", "asmk_star")
    parser.add_choice("--to", kinds, "files of DELF, one an image: ")
    parser.add_flag("--float", "an inverted file of ASMK, not ASMK*")
    parser.add_flag("--regional", "R-ASMK*, of a store with boxes")
    parser.add_flag("--idf", "weigh words by rarity")
    parser.add_number("--assignments", "words of a descriptor (1)")
    parser.add_value("--config", "FILE", "an aggregation .pbtxt of DELF")
    parser.add_ray()


def run_aggregate(options: argparse.Namespace) -> int:
    if options.rest:
        raise InputError(
            f"{options.rest[0]}: aggregate takes no fields; use its options"
        )
    if options.to and (options.float or options.idf):
        raise InputError("--float, --idf: only of an inverted file; leave out --to")
    config = _read_config(options)
    codebook = options.codebook or (config and config.codebook)
    if not codebook:
        raise InputError("aggregate: name a codebook with --codebook")
    prepare_jax()
    from delf_jax.index import aggregated_files, aggregation, inverted_builder
    from delf_jax.store import feature_store

    assignments = options.assignments
    if assignments is None:
        assignments = config.assignments if config else 1
    regional = options.regional or bool(config and config.regional)
    words = aggregation.load_words(codebook, assignments)._replace(regional=regional)
    _check_size(options, config, words.codebook.centroids.shape)
    images = feature_store.open_store(options.store)
    print_shortfall(images)
    rule = inverted_builder.default_rule(regional)._replace(idf=options.idf)
    if config:
        rule = rule._replace(
            alpha=config.alpha, tau=config.tau, normalize=config.normalize
        )
    if options.to:
        report = aggregated_files.write_aggregated(
            images,
            words,
            options.out,
            kind=options.to,
            normalize=config is None or config.normalize,
            ray=options.ray,
        )
    else:
        asmk = options.float or (config and config.aggregation == "asmk")
        report = inverted_builder.update_inverted_file(
            images, words, options.out, binary=not asmk, rule=rule, ray=options.ray
        )
    return print_report(report, options.out, done="aggregated")


def _read_config(options: argparse.Namespace) -> Any:
    """The config of the original, or None; InputError if the options differ from it."""
    if not options.config:
        return None
    from delf_jax.extraction import delf_config

    config = delf_config.read_aggregation_config(options.config)
    kind = config.aggregation
    if options.to and options.to != kind:
        raise InputError(
            f"{options.config}: aggregation_type is {kind.upper()}, but --to is "
            f"{options.to.upper()}"
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
            f"feature_dimensionality {config.dimension} do not match the codebook, "
            f"which has {shape[0]} words of {shape[1]} dimensions"
        )
