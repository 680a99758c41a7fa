"""Look after the versions in a store.

    python pipelines/datasets.py list
    python pipelines/datasets.py show task=denoise version=v000002 preview=sheet.png
    python pipelines/datasets.py verify task=all
    python pipelines/datasets.py pin task=sr version=v000001 name=paper
    python pipelines/datasets.py unpin task=sr version=v000001 name=paper
    python pipelines/datasets.py prune task=all keep=3

`version` is the current one where it is not given. `verify` reads every shard: SHA-256, names, and each pair's images.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's own folder comes first otherwise, and hides packages of the same names
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.table import Table

from kgt.errors import UserError, as_command
from kgt.imaging.files import check_writable
from kgt.tasks import nearest
from pipelines import cluster, versions
from pipelines.manifest import Manifest
from pipelines.options import about, expand_tasks, parse
from pipelines.preview import stored_pairs, write_sheet
from pipelines.progress import Meter
from pipelines.storage import Store, open_store
from pipelines.verify import verify_row


@dataclass
class Options:
    """What `datasets.py` takes after the verb."""

    task: Any = field(default="all", metadata=about("one task, several as [sr,denoise], or all"))
    store: str = field(default="", metadata=about("file:///folder or s3://bucket/folder [$KGT_HOME/shards]"))
    version: str = field(default="", metadata=about("such as v000001 [the current one]"))
    name: str = field(default="", metadata=about("a pin's name"))
    preview: str = field(default="", metadata=about("show: write a contact sheet of stored pairs to this image file"))
    keep: int = field(default=3, metadata=about("versions that prune keeps, beside pinned ones"))


def show_list(store: Store, tasks: Sequence[str], options: Options) -> None:
    """A line for every version."""
    table = Table("task", "version", "", "train pairs", "val pairs", "MiB", "mean input PSNR, dB", "pins")
    for task in _published(store, tasks, options):
        newest = versions.current_name(store, task)
        pins = versions.pins(store, task)
        for version in versions.list_versions(store, task):
            manifest = versions.load(store, task, version)
            train, val = manifest.statistics["train"], manifest.statistics["val"]
            table.add_row(
                task,
                version,
                "current" if version == newest else "",
                str(train["pairs"]),
                str(val["pairs"]),
                f"{(train['bytes'] + val['bytes']) / 2**20:.1f}",
                f"{train['input_psnr']:.2f}",
                ", ".join(pins.get(version, ())),
            )
    _console().print(table)


def show(store: Store, tasks: Sequence[str], options: Options) -> None:
    """What a version was made of, as JSON: all of the manifest but the single shards. And a sheet of its pairs."""
    if options.preview:
        check_writable(Path(options.preview))
    manifests = [_manifest(store, task, options) for task in _published(store, tasks, options)]
    for manifest in manifests:
        facts = asdict(manifest) | {"shards": len(manifest.shards), "digest": manifest.digest}
        print(json.dumps(facts, indent=1, sort_keys=True))
    if options.preview:
        write_sheet(Path(options.preview), [(m.task, stored_pairs(store, m)) for m in manifests])
        print(f"contact sheet: {options.preview}", file=sys.stderr)


def verify(store: Store, tasks: Sequence[str], options: Options) -> None:
    """Read every shard of a version. Raises UserError naming the bad ones."""
    manifests = [_manifest(store, task, options) for task in _published(store, tasks, options)]
    rows = [{"store": store, "task": m.task, "shard": shard} for m in manifests for shard in m.shards]
    bad = []
    with Meter("verify", len(rows), "shards") as meter:
        for result in cluster.each_row(verify_row, rows, cpus=1, alone=True):
            if result["trouble"]:
                bad.append(f"{result['key']} ({result['trouble']})")
            meter.advance()
    if bad:
        some = ", ".join(sorted(bad)[:5])
        raise UserError(
            f"{len(bad)} of {len(rows)} shards in {store.url} are not what was published: {some}; "
            "delete those of a current version and give synthesize.py its settings: they are made again; "
            "older versions are not, unpin and prune them"
        )
    print(f"{len(rows)} shards of {len(manifests)} tasks are as published")


def pin(store: Store, tasks: Sequence[str], options: Options) -> None:
    """Keep a version from being pruned."""
    for task in _published(store, tasks, options):
        version = _manifest(store, task, options).version
        versions.pin(store, task, version, options.name)
        print(f"{task}: {version} is pinned as {options.name}")


def unpin(store: Store, tasks: Sequence[str], options: Options) -> None:
    """Give up a pin."""
    for task in _published(store, tasks, options):
        version = _manifest(store, task, options).version
        versions.unpin(store, task, version, options.name)
        print(f"{task}: {version} is no longer pinned as {options.name}")


def prune(store: Store, tasks: Sequence[str], options: Options) -> None:
    """Remove old versions and the shards that only they had."""
    for task in _published(store, tasks, options):
        print(f"{task}: {versions.prune(store, task, options.keep)}")


VERBS: dict[str, Callable[[Store, Sequence[str], Options], None]] = {
    "list": show_list,
    "show": show,
    "verify": verify,
    "pin": pin,
    "unpin": unpin,
    "prune": prune,
}


@as_command()
def main(argv: Sequence[str]) -> int:
    """Run; the exit code."""
    verb, *rest = argv or ["--help"]
    if verb in ("-h", "--help"):
        rest = ["--help"]
    elif verb not in VERBS:
        raise UserError(f"unknown verb '{verb}': {nearest(verb, VERBS)}")
    options = parse(Options, rest, __doc__)
    VERBS[verb](open_store(options.store), expand_tasks(options.task), options)
    return 0


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)


def _published(store: Store, tasks: Sequence[str], options: Options) -> list[str]:
    """The tasks that have a version; with `task=all` the others are passed over. Raises UserError if none has."""
    found = [task for task in tasks if versions.list_versions(store, task)]
    missing = [task for task in tasks if task not in found]
    if missing and (options.task != "all" or not found):
        versions.current(store, missing[0])
    return found


def _manifest(store: Store, task: str, options: Options) -> Manifest:
    return versions.load(store, task, options.version) if options.version else versions.current(store, task)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
