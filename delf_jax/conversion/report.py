"""The report of a conversion: what was loaded, left out and why, or is missing."""

import collections
import fnmatch
import itertools
import json
import os
import pathlib
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from delf_jax.conversion.families import FAMILIES
from delf_jax.files import InputError, write_json

# What a network may have, and how its tensors are called here; families that are
# backbones only have none of it.
WITH_HEADS = ("slim", "delf", "pycls")
OPTIONAL = (
    *(f"params/local/attention/conv1/{n}" for n in ("kernel", "scale", "offset")),
    *(f"batch_stats/local/attention/conv1/{n}" for n in ("mean", "var")),
    *(f"params/local/attention/conv2/{n}" for n in ("kernel", "bias")),
    *(f"params/local/autoencoder/reduce/{n}" for n in ("kernel", "bias")),
    *(f"params/whitening/{n}" for n in ("kernel", "bias")),
)
# Longer lists are in the mapping file, complete.
SHOWN = 40


def print_report(
    path: pathlib.Path, out: pathlib.Path, source: Any, network: Any
) -> None:
    """Prints the report of a conversion and the next command."""
    title = FAMILIES[network.family].title
    print(f"{path}: {title} ({source.kind}, matched by {network.assigned.evidence})")
    print(f"\n{'module':<28} {'tensors':>7}  {'parameters':>10}")
    modules = collections.defaultdict(list)
    for name, value in network.variables.items():
        module = "/".join(name.split("/")[1:-1][:2]).split("_unit")[0]
        modules[module].append(value.size)
    for module, sizes in sorted(modules.items()):
        print(f"{module:<28} {len(sizes):>7}  {sum(sizes):>10,}")
    sizes = [value.size for value in network.variables.values()]
    print(f"{'all':<28} {len(sizes):>7}  {sum(sizes):>10,}")
    reasons = collections.defaultdict(list)
    for name, reason in network.assigned.dropped.items():
        reasons[reason].append(name)
    for reason, names in reasons.items():
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        print(f"\nleft out, {reason}: {len(names)} ({some})", end="")
    print(f"\n\narchitecture: {json.dumps(network.architecture)}")
    print(f"extraction: {json.dumps(network.extraction)}")
    for field in network.assumed:
        value = network.architecture[field]
        other = json.dumps(not value) if isinstance(value, bool) else "N"
        print(f"{field} {json.dumps(value)} is assumed: --set={field}={other} if not")
    command = "index photos/ --index=runs/photos"
    if FAMILIES[network.family].detects:
        command = "detect photos --out=boxes"
    elif network.extraction["max_features"]:
        command = "match a.jpg b.jpg"
        if not network.extraction.get("attention_threshold"):
            print("no attention threshold is known: the strongest features are kept")
    command += f" --model={shlex.quote(str(out))}"
    print(f"\nwritten: {out}\nnext: python main.py {command}", flush=True)


def print_unmatched(mapping: Any, names: Collection[str]) -> None:
    """Prints the names and patterns of `drop` that match no tensor."""
    for pattern in mapping.drop:
        if pattern not in names and not fnmatch.filter(names, pattern):
            print(f"{mapping.path}: {pattern} of its drop matches no tensor")


def refusal(
    path: pathlib.Path,
    family: str,
    mapping: Any,
    assigned: Any,
    shapes: Mapping[str, tuple[int, ...]],
    missing: Mapping[str, tuple[int, ...]],
    template: pathlib.Path,
) -> InputError:
    """The error, after both sides are printed and the mapping file is begun.

    Another file that stands in its place is not touched.

    Args:
      mapping: of this conversion, whose file may be the one that is written: all of its
        entries stay.
      shapes: of theirs.
      missing: ours without a tensor of the right shape.
      template: the mapping file to write.
    """
    for ours in missing.keys() & assigned.named.keys():
        theirs = assigned.named[ours]
        print(f"{theirs} is {list(shapes[theirs])}, {ours} {list(missing[ours])}")
    left = [f"{name} {list(shapes[name])}" for name in assigned.left]
    ours = {name: f"{name} {list(shape)}" for name, shape in missing.items()}
    if left and family in WITH_HEADS:
        optional = [name for name in OPTIONAL if name not in {*assigned.named, *ours}]
        ours |= {name: f"{name} (if there is one)" for name in optional}
    width = max(map(len, [*left, "theirs, without a place"]))
    print(f"{'theirs, without a place':<{width}}  ours, without a tensor")
    rows = list(itertools.zip_longest(left, ours.values(), fillvalue=""))
    for row in rows[:SHOWN]:
        print(f"{row[0]:<{width}}  {row[1]}")
    if len(rows) > SHOWN:
        print(f"... and {len(rows) - SHOWN} rows more")
    named = {**dict.fromkeys(ours, ""), **mapping.named}
    drop = list(dict.fromkeys([*mapping.drop, *assigned.left]))
    reason = f"{path}: {len(left)} of its tensors have no place in the network and "
    reason += f"{len(missing)} of the network's are missing there; "
    if template.exists() and not (
        os.path.exists(mapping.path) and template.samefile(mapping.path)
    ):
        return InputError(
            f"{reason}{template} of an earlier run is kept: use it as --mapping, or "
            "remove it to start again"
        )
    write_json(template, {"family": family, **named, "drop": drop})
    return InputError(
        f"{reason}match them in {template}, keep in its drop what to leave out, and "
        "use it as --mapping"
    )
