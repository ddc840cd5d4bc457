"""What each command does; each returns an exit status.

Everything slow is imported inside, by the command that needs it.
"""

import argparse
import pathlib
import sys
from typing import Any

from delf_jax.files import InputError

FAILED = 1


def run_match(options: argparse.Namespace) -> int:
    from delf_jax import figures, files, images

    figures.figure_format(options.out)  # before any work
    photos = [images.read_image(path) for path in options.images]
    model, settings = _model_and_settings(options)
    from delf_jax import pairs

    found = pairs.compare_photos(*options.images, model, settings)
    text = f"{found.inliers} inliers of {len(found.pair.matches)} matches"
    if found.similarity is not None:
        text += f", similarity {found.similarity:.3f}"
    print(text, flush=True)
    local = [features.local for features in found.features]
    figures.draw_matches(*photos, *local, found.pair, text, options.out)
    print(f"figure: {options.out}")
    if options.json:
        files.write_json(options.json, pairs.describe(found, options.images))
        print(f"JSON: {options.json}")
    return 0


def run_extract(options: argparse.Namespace) -> int:
    from delf_jax import store

    found = store.find_images(options.paths)
    model, settings = _model_and_settings(options)
    report = store.extract_to_store(
        found, options.out, model, settings, part=options.part
    )
    return _tell_report(report, options.out)


def run_index(options: argparse.Namespace) -> int:
    from delf_jax import search

    asked = [name for name in ("paths", "add", "remove") if getattr(options, name)]
    if len(asked) != 1:
        raise InputError("index: give photos to index, or --add, or --remove")
    if options.remove:
        left = search.remove_images(options.index, options.remove)
        print(f"{options.index}: {len(options.remove)} removed, {left} left")
        return 0
    model, settings = _model_and_settings(options)
    change = search.add_images if options.add else search.make_index
    paths = options.add or options.paths
    report = change(paths, options.index, model, settings)
    return _tell_report(report, options.index)


def run_search(options: argparse.Namespace) -> int:
    from delf_jax import files, page, search

    if options.top < 0:
        raise InputError(f"--top={options.top}: use a positive number, or 0 for all")
    queries = _query_paths(options.paths)
    index = search.open_index(options.index)
    model, settings = _model_and_settings(options)
    answers, failed = [], []
    for answer in search.search(
        index, queries, model, settings, top=options.top, rerank=not options.no_rerank
    ):
        if isinstance(answer, InputError):
            failed.append(answer)
            continue
        answers.append(answer)
        _print_answer(answer)
    if not answers and len(failed) == 1:
        raise failed[0]
    for reason in failed:
        print(f"failed: {reason}", file=sys.stderr)
    if not answers:
        raise InputError(f"none of the {len(failed)} query photos could be used")
    if failed:
        print(f"{len(answers)} photos searched for, {len(failed)} failed")
    if options.json:
        files.write_json(options.json, search.describe(answers))
        print(f"JSON: {options.json}")
    if options.html:
        page.write_page(options.html, answers, index.file, str(index))
        print(f"page: {options.html}")
    return 0


def run_evaluate(options: argparse.Namespace) -> int:
    from delf_jax import datasets, evaluation, evaluation_report, files, ways

    dataset = datasets.read_dataset(options.dataset, options.images)
    if options.ranking:
        ranking = evaluation.read_rankings(options.ranking, dataset)
        found = evaluation.score(
            dataset,
            {
                pathlib.Path(options.ranking).stem: dict.fromkeys(
                    dataset.protocols, ranking
                )
            },
            depends={"file": files.sha256_of(options.ranking)},
        )
    else:
        chosen = ways.parse_ways(options.rerank)
        model, settings = _model_and_settings(options)
        found = evaluation.evaluate(
            *(dataset, options.index, model, settings, chosen),
            partial=options.partial,
        )
    print(*evaluation_report.table(found), sep="\n")
    if options.json:
        files.write_json(options.json, evaluation_report.describe(found))
        print(f"JSON: {options.json}")
    if options.metrics:
        evaluation_report.write_metrics(options.metrics, found)
        print(f"metrics: {options.metrics}")
    return 0


def run_train(options: argparse.Namespace) -> int:
    from delf_jax import configuration

    config = configuration.read_training_config(options.config, options.rest)
    _prepare_jax()
    from delf_jax import train

    train.train(config, options.workdir)
    return 0


def run_convert(options: argparse.Namespace) -> int:
    from delf_jax.conversion import convert

    convert.convert(
        options.source,
        options.out,
        mapping=options.mapping,
        settings=dict(options.set or ()),
    )
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    from delf_jax import inspection

    print(inspection.describe(options.path))
    return 0


def run_features(options: argparse.Namespace) -> int:
    from delf_jax import exchange

    if options.to:
        report = exchange.write_files(options.source, options.target, options.to)
    else:
        report = exchange.read_files(
            options.source, options.target, options.layout, name=options.name
        )
    return _tell_report(report, options.target, done="written")


def run_export(options: argparse.Namespace) -> int:
    model, _ = _model_and_settings(options)
    from delf_jax import export

    names = export.Wishes._fields
    wishes = export.Wishes(**{name: getattr(options, name) for name in names})
    written = export.export_model(model, options.format, options.out, wishes)
    for title, arrays in (("in", written.inputs), ("out", written.outputs)):
        for name, signature in arrays.items():
            print(f"{title:>4}  {name:<24} {signature}")
    for note in written.notes:
        print(f"note: {note}")
    print(f"{options.format}: {options.out}")
    return 0


def run_fit(options: argparse.Namespace) -> int:
    _prepare_jax()
    from delf_jax import fitting

    given = {"store": options.store, "out": options.out}
    if options.kind == "pca":
        chosen = fitting.fit_pca(
            **given, dimension=options.dimension, whiten=options.whiten
        )
        print(f"{options.out}: {options.dimension} components; to extract with them:")
        print(
            *(f"  --config.extraction.pca.{n}={v}" for n, v in chosen.items()), sep="\n"
        )
        return 0
    codebook = fitting.fit_codebook(
        **given,
        words=_words(options),
        iterations=options.iterations,
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


def run_demo(options: argparse.Namespace) -> int:
    model, _ = _model_and_settings(options)
    from delf_jax import demo

    demo.run(options.out, model)
    return 0


def _query_paths(paths: list[str]) -> list[pathlib.Path]:
    """Photos in the order given; those of a folder by name."""
    from delf_jax import store

    found = []
    for path in map(pathlib.Path, paths):
        inside = store.find_images([path]) if path.is_dir() else [("", path)]
        found += [path / image for image, _ in inside]
    return found


def _model_and_settings(options: argparse.Namespace) -> tuple[Any, Any]:
    _prepare_jax()
    from delf_jax import settings, weights

    folder, chosen = options.model, {}
    if options.rest or getattr(options, "config", None):
        from delf_jax import extraction_config

        config, lines = extraction_config.read_extraction_config(
            options.config, options.rest
        )
        print(*lines, sep="\n", end="\n" * bool(lines))
        folder = folder or extraction_config.model_folder(config)
        chosen = extraction_config.chosen_settings(config)
    model = weights.load_model(folder)
    return model, settings.settings_for(model, **chosen)


def _prepare_jax() -> None:
    from delf_jax import compilation

    compilation.enable_compilation_cache()


def _print_answer(answer: Any) -> None:
    """One query as a table."""
    print(f"\n{answer.image}")
    print(f"{'':>6}  {'inliers':>7}  {'similarity':>10}  image")
    for rank, result in enumerate(answer.results, 1):
        inliers = "-" if result.inliers is None else result.inliers
        print(f"{rank:>6}  {inliers:>7}  {result.similarity:>10.3f}  {result.image}")


def _tell_report(report: Any, out: str, done: str = "extracted") -> int:
    """0, or 1 if none of the images could be used; the failed ones by name."""
    for reason in report.failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    counts = f"{report.extracted} {done}, {report.unchanged} unchanged"
    if report.removed:
        counts += f", {report.removed} removed"
    if report.failed:
        counts += f", {len(report.failed)} failed"
    if report.damaged:
        counts += f", {report.damaged} damaged shards replaced"
    print(f"{out}: {counts}")
    return 0 if report.extracted + report.unchanged else FAILED
