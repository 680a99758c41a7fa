"""What is to be made of each task: the jobs of a run, from the survey and the live versions."""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kgt.errors import UserError
from pipelines import rounds, versions
from pipelines.acceptance import check_counts
from pipelines.job_options import Options, RenewalOptions
from pipelines.manifest import SPLITS, Manifest, survey_prefix
from pipelines.plan import PlannedShard, Recipe, fingerprint, identity, plan, renewed
from pipelines.storage import Malformed, Missing, Store, read_records
from pipelines.survey import Survey


@dataclass(frozen=True)
class Job:
    """One version of one task to be made. `live` is the version before it; `mends`, that version itself if shards of it
    were lost, which are made again."""

    recipe: Recipe
    epoch: int
    identity: str
    shards: tuple[PlannedShard, ...]
    live: Manifest | None
    mends: Manifest | None = None

    @property
    def task(self) -> str:
        """The task's name."""
        return self.recipe.task


@dataclass(frozen=True)
class Sources:
    """What was surveyed, as versions record it: the images' fingerprint and both lists' files."""

    seen: Survey
    fingerprint: str
    images: bytes
    rejects: bytes

    @classmethod
    def of(cls, seen: Survey) -> "Sources":
        """The same for the same images and rejects."""
        facts = [(i.digest, i.source.licence, i.source.split, i.source.group) for i in seen.images]
        images = gzip.compress(_jsonl([image.record() for image in seen.images]), mtime=0)
        return cls(seen, fingerprint(facts), images, _jsonl([reject.record() for reject in seen.rejects]))

    @property
    def reasons(self) -> dict[str, int]:
        """How many rejects there are of each reason."""
        return dict(sorted(Counter(reject.reason for reject in self.seen.rejects).items()))

    def keys(self, task: str, version: str) -> tuple[str, str]:
        """Where the two lists are in the store."""
        digest = hashlib.sha256(self.images + self.rejects).hexdigest()[:32]
        prefix = survey_prefix(task, version, digest)
        return f"{prefix}images.jsonl.gz", f"{prefix}rejects.jsonl"


class Jobs:
    """The jobs of a run.

    `up_to_date`: versions that need nothing; `refused`: a line for each task that may not be made; `notes`: what the
    user should know.
    """

    def __init__(self, store: Store, recipes: Sequence[Recipe], found: Sources, options: Options) -> None:
        self.up_to_date: dict[str, str] = {}
        self.refused: list[str] = []
        self.notes: list[str] = []
        self._store, self._found, self._options = store, found, options
        self._renewal = isinstance(options, RenewalOptions) and not options.only_if_changed
        self._identities = {recipe.task: identity(recipe, found.fingerprint) for recipe in recipes}
        live = {recipe.task: versions.latest(store, recipe.task) for recipe in recipes}
        self._epochs = self._begin_round({task: manifest.epoch if manifest else 0 for task, manifest in live.items()})
        self.jobs: list[Job] = []
        for recipe in recipes:
            try:
                job = self._job(recipe, live[recipe.task])
            except UserError as error:
                self.refused.append(str(error))
                continue
            if job:
                self.jobs.append(job)
            else:
                self.up_to_date[recipe.task] = live[recipe.task].version

    def end(self) -> None:
        """The run has ended in order: a later one has nothing of it to finish."""
        if self._renewal:
            rounds.end(self._store, self._identities, self._options.fraction)

    def _begin_round(self, live: Mapping[str, int]) -> dict[str, int]:
        if self._renewal:
            return rounds.begin(self._store, self._identities, self._options.fraction, live)
        return {task: epoch + 1 for task, epoch in live.items()}

    def _job(self, recipe: Recipe, live: Manifest | None) -> Job | None:
        """What is to be made of one task; None if nothing is. Raises UserError."""
        task, wanted, images = recipe.task, self._identities[recipe.task], self._found.seen.images
        same = live is not None and live.identity == wanted
        published = live is not None and live.epoch >= self._epochs[task]  # by a round that was killed
        if published or (same and not self._renewal):
            return self._mending(recipe, live) if same and versions.missing(self._store, live) else None
        shards = plan(recipe, images, self._epochs[task])
        if live:
            self._check_readmitted(task, live)
        if live and isinstance(self._options, RenewalOptions):
            check_counts(live, _pairs(shards), self._options.max_shrink, same=same)
            if same:
                shards = renewed(shards, live.shards, self._options.fraction)
            elif self._options.fraction < 1:
                self.notes.append(f"{task}: sources or settings changed, so all training shards are made anew")
        return Job(recipe, self._epochs[task], wanted, tuple(shards), live)

    def _mending(self, recipe: Recipe, live: Manifest) -> Job:
        """The live version's own shards, those that were lost and, to be kept, those that are there."""
        planned = plan(recipe, self._found.seen.images, live.epoch)
        known = [(entry.split, entry.samples) for entry in live.shards]
        if [(shard.split, shard.samples) for shard in planned] == known:
            planned = renewed(planned, live.shards, 0.0)
        if [shard.name for shard in planned] != [entry.name for entry in live.shards]:
            raise UserError(
                f"{self._store.url}: shards of {live.version} of {recipe.task} are missing, and this code would make "
                "others: make the next version with regenerate.py"
            )
        return Job(recipe, live.epoch, live.identity, tuple(planned), None, live)

    def _check_readmitted(self, task: str, live: Manifest) -> None:
        """Images that the live version was made without, because they are withdrawn or leak, stay out of the next one.

        Raises UserError in a scheduled run; where somebody asks for a version, they are told.
        """
        key = live.sources["rejects_key"]
        try:
            rejects = read_records(self._store, key)
            refused = {reject["source"] for reject in rejects if reject["reason"] in ("excluded", "leak")}
        except (Missing, Malformed, KeyError, TypeError) as error:
            how = "is gone" if isinstance(error, Missing) else f"is damaged: {error}"
            line = f"{self._store.url}/{key}, which says what {live.version} was made without, {how}"
        else:
            back = sorted({image.source.name for image in self._found.seen.images} & refused)
            if not back:
                return
            some = f"such as {back[0]}"
            line = f"{task}: {len(back)} images that {live.version} left out (excluded, leak) are used, {some}"
        if isinstance(self._options, RenewalOptions):
            raise UserError(f"{line}: give exclude= or guard= as before, or make the version with synthesize.py")
        self.notes.append(line)


def _pairs(shards: Sequence[PlannedShard]) -> dict[str, int]:
    return {split: sum(shard.samples for shard in shards if shard.split == split) for split in SPLITS}


def _jsonl(records: Sequence[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(record, sort_keys=True)}\n" for record in records).encode()
