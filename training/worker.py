"""What one Ray Train worker runs: engine, steps, checkpoints. Reports go to the controller's board."""

import dataclasses
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import safetensors.torch
import torch
import torch.distributed as dist

from kgt.errors import UserError
from kgt.imaging import write_image
from kgt.model import KGT
from kgt.weights import save_weights
from pipelines.patience import patiently
from pipelines.storage import Store, open_store, put_made
from training import checkpoint
from training.board import Picture
from training.config import loss_terms
from training.data import Batch, Prefetcher, undone_batches
from training.diagnosis import diagnosis
from training.ema import Ema
from training.engine import DeepSpeedEngine, make_universal
from training.losses import weighted
from training.order import consumed
from training.plan import INIT, Job
from training.profiling import StepProfiler
from training.remote import NotFinite
from training.reporter import Reporter
from training.schedule import learning_rate, neighbours
from training.step import StepOutcome, train_step
from training.validation import Validator
from training.warmstart import take_over

WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
"""The average that validated best so far, with its `step` and `psnr`; the last one is the run's result all the same."""

logging.getLogger("botocore").setLevel(logging.WARNING)  # Ray Train shows workers' INFO lines
logger = logging.getLogger("training")


def train(loop: dict[str, Any]) -> None:
    """Ray Train's loop: from the last committed checkpoint, or the start, to the last step and its weights in store.

    Asked to stop, it writes a checkpoint and returns before that. loop: `job`, and `board` (see `board.Board`).
    """
    job: Job = loop["job"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, workers=workers))
    torch.set_num_threads(job.config.cpus_per_worker)
    reporter = Reporter(job, loop["board"]) if rank == 0 else None
    state = _State(job, rank, reporter)
    profiler = StepProfiler(job.config.profiled() if rank == 0 else range(0), state.store, f"{job.task}/profile")
    stopping = False
    if state.step < job.config.steps:
        _check_memory(job)
        source = undone_batches(job.plan, rank=rank, workers=workers, step=state.step)
        loader = Prefetcher(source, job.config.loader_threads)
        try:
            if state.unvalidated is not None:
                state.conclude(StepOutcome(**state.unvalidated["outcome"]), state.unvalidated["figures"])
                stopping = state.stopping()
                if state.checkpoint_due():  # it is the best
                    state.save()
            begun = time.perf_counter()
            while state.step < job.config.steps and not stopping:
                profiler.begin(state.step + 1)
                batch = _next_batch(loader, state.device)
                outcome, figures = _step(job, state, batch)
                ended = time.perf_counter()
                figures["wait"] = loader.waited
                figures["seconds"] = ended - begun  # with what came after the step before, such as its report
                begun = ended + state.conclude(outcome, figures)
                if state.skipped_in_row >= job.config.max_skipped:
                    raise _not_finite(job, state, batch, outcome, figures)
                exporting = time.perf_counter()
                if trace := profiler.end(state.step):
                    reporter.say(f"trace of torch.profiler: {trace}")
                begun += time.perf_counter() - exporting
                stopping = state.stopping()
                if state.checkpoint_due() or stopping:
                    begun += state.save()
        finally:
            loader.close()
            if trace := profiler.close():
                reporter.say(f"trace of torch.profiler: {trace}")
    if state.step == job.config.steps:
        state.save_weights()
    dist.barrier()


def check_same_run(found: checkpoint.Checkpoint, job: Job) -> None:
    """See that the job can go on from it. Raises CheckpointError where model, data or batches are others."""
    for what, own in identity(job, found.step).items():
        if found.state.get(what) != own:
            raise checkpoint.CheckpointError(
                f"the checkpoint of step {found.step} in {job.config.out}/{job.task} is of another run, as its {what} "
                "says: give another out="
            )


def identity(job: Job, step: int) -> dict[str, Any]:
    """What a checkpoint must share with the run that goes on from it, as JSON gives it back."""
    given = consumed(job.plan.samples(step), job.plan.streams)
    return {"model": job.model.to_dict(), "dataset digest": job.plan.pinned["digest"], "samples of each stream": given}


class _State:
    """What a checkpoint holds: weights, optimizer, average, counters. From the last committed one, where there is one.

    reporter: rank 0's.
    """

    def __init__(self, job: Job, rank: int, reporter: Reporter | None) -> None:
        self.job = job
        self.rank = rank
        self.reporter = reporter
        self.store: Store = open_store(job.config.out)
        self.device = ray.train.torch.get_device()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # NCCL's collectives of objects use the current one
        self.step = 0
        self.skipped = 0
        self.skipped_in_row = 0
        self.best: dict[str, float] | None = None  # the validation's best `step` and `psnr`
        self.unvalidated: dict[str, Any] | None = None  # the step's `outcome` and `figures`, if it was stopped in there
        torch.manual_seed(job.config.seed)
        model = KGT(job.model)
        found = self._latest()
        resized = found is not None and found.state["workers"] != dist.get_world_size()
        if found is None and job.config.init:
            self._warm_start(model)
        universal = resized and job.config.zero > 0
        model.checkpoint_activations(job.config.activation_checkpointing)
        self.engine = DeepSpeedEngine(model.to(self.device), job.config, universal=universal)
        self.loss = weighted(loss_terms(job.config.loss))
        self.ema = Ema(self.engine.weights(), job.config.ema)
        if found is not None:
            self._resume(found, universal)
        self._validator: Validator | None = None

    def anywhere(self, wish: bool) -> bool:
        """Whether any rank wishes it: the same answer on all of them, which all ask."""
        return self.engine.mean(torch.tensor([float(wish)], device=self.device)).item() > 0

    def stopping(self) -> bool:
        """Whether the run is to stop at its next checkpoint: the same answer on every rank; every rank calls it."""
        return self.anywhere(self.reporter is not None and self.reporter.stopping)

    def _latest(self) -> checkpoint.Checkpoint | None:
        """The last committed checkpoint, the same on every rank. Raises CheckpointError where it is another run's."""
        found = [checkpoint.latest(self.store, self.job.task) if self.rank == 0 else None]
        dist.broadcast_object_list(found)
        if found[0] is None:
            return None
        check_same_run(found[0], self.job)
        return found[0]

    def _resume(self, found: checkpoint.Checkpoint, universal: bool) -> None:
        def fill(folder: Path) -> None:
            checkpoint.fetch(self.store, found, folder)
            if universal:
                make_universal(folder)

        started = time.perf_counter()
        with _on_this_machine(fill) as folder:
            self.engine.load(folder)
            average = safetensors.torch.load_file(folder / "ema.safetensors")
            self.ema.load(self.engine.part(average), found.state["ema_updates"])
        self.step = found.step
        self.skipped, self.skipped_in_row = found.state["skipped"], found.state["skipped_in_row"]
        self.best, self.unvalidated = found.state.get("best"), found.state.get("unvalidated")
        if self.reporter:
            self.reporter.note(resume=time.perf_counter() - started)

    def _warm_start(self, model: KGT) -> None:
        def fill(folder: Path) -> None:
            (folder / INIT).write_bytes(self.store.get(f"{self.job.task}/{INIT}"))

        with _on_this_machine(fill) as folder:
            taken = take_over(model, folder / INIT, self.job.config.init)
        if self.reporter:
            self.reporter.say(taken)

    def validation_due(self) -> bool:
        """After this step. After the last one `finish` does it."""
        every, steps = self.job.config.validate_every, self.job.config.steps
        return every > 0 and self.step % every == 0 and self.step < steps and bool(self.job.plan.validation)

    def checkpoint_due(self) -> bool:
        """After this step; the best so far is always kept."""
        best = self.best is not None and self.best["step"] == self.step
        return self.step % self.job.config.checkpoint_every == 0 or self.step == self.job.config.steps or best

    def conclude(self, outcome: StepOutcome, figures: dict[str, float]) -> float:
        """Validate where it is due, and report the step. How many seconds the first took; every rank calls it.

        Where the run is to stop meanwhile, both are left to whoever goes on from this step.
        """
        started = time.perf_counter()
        validated = self._validate() if self.validation_due() else {}
        seconds = time.perf_counter() - started
        self.unvalidated = None
        if validated is None:
            self.unvalidated = {"outcome": dataclasses.asdict(outcome), "figures": figures}
        elif self.reporter:
            took = {"validation": seconds} if validated else {}
            self.reporter.add(self.step, outcome, figures | validated | took)
        return seconds

    def _validate(self) -> dict[str, float] | None:
        """The figures of weights and average, the same on every rank; `val_best_psnr`: the best before.

        None where it was cut short, as the run is to stop.
        """
        if self._validator is None:
            self._validator = Validator(self.job, self.device)
        average = self.engine.whole(self.ema.shadow)
        try:
            figures = self._validator.figures(self.engine.whole(self.engine.weights()), average, self._stop_asked)
        except torch.OutOfMemoryError as error:
            raise UserError(
                "the GPU cannot hold a validation beside the training: use validate_every=0, or shards of smaller crops"
            ) from error
        if figures is None:
            return None
        if self.best:
            figures["val_best_psnr"] = self.best["psnr"]
        if figures["val_psnr"] > (self.best["psnr"] if self.best else -math.inf):
            self.best = {"step": self.step, "psnr": figures["val_psnr"]}
            if self.rank == 0:
                self._put_weights(BEST, average, {name: str(value) for name, value in self.best.items()})
        if self.reporter and math.isfinite(figures["val_psnr"]):
            self._put_picture(self._validator.picture())
        return figures

    def _stop_asked(self) -> bool:
        return self.anywhere(self.reporter is not None and self.reporter.stop_asked("validating"))

    def _put_picture(self, picture: np.ndarray) -> None:
        key = f"{self.job.task}/pictures/{self.step:08d}.png"
        patiently(put_made, self.store, key, lambda path: write_image(path, picture))
        self.reporter.say(Picture(key))

    def save(self) -> float:
        """Write a checkpoint, every rank its part, and remove old ones. How many seconds it took."""
        started = time.perf_counter()
        state = identity(self.job, self.step) | {
            "workers": dist.get_world_size(),
            "ema_updates": self.ema.updates,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
            "best": self.best,
            "unvalidated": self.unvalidated,
        }
        if self.reporter:
            self.reporter.keep(self.store)
        with tempfile.TemporaryDirectory(prefix="kgt-checkpoint-") as folder:
            self.engine.save(Path(folder))
            average = self.engine.whole(self.ema.shadow)
            if self.rank == 0:
                safetensors.torch.save_file(average, Path(folder) / "ema.safetensors")
            checkpoint.save(self.store, self.job.task, self.step, Path(folder), state, rank=self.rank, gather=_gather)
        if self.reporter:
            best = [self.best["step"]] if self.best else []
            patiently(checkpoint.prune, self.store, self.job.task, self.job.config.keep, best)
        seconds = time.perf_counter() - started
        if self.reporter:
            self.reporter.note(checkpoint=seconds)
        return seconds

    def save_weights(self) -> None:
        """The averaged weights as the run's result. Every rank calls it; rank 0 writes."""
        average = self.engine.whole(self.ema.shadow)
        if self.rank == 0:
            self._put_weights(WEIGHTS, average)

    def _put_weights(self, name: str, weights: dict[str, torch.Tensor], more: dict[str, str] | None = None) -> None:
        model = KGT(self.job.model)
        model.load_state_dict(weights)
        metadata = {"task": self.job.task, **(more or {})}
        key = f"{self.job.task}/{name}"
        patiently(put_made, self.store, key, lambda path: save_weights(model, path, metadata=metadata))


def _check_memory(job: Job) -> None:
    """Raises UserError where this machine could not even hold the images of a worker's share of a batch."""
    inputs, outputs = job.model.in_channels, job.model.out_channels * job.model.scale**2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for phase in job.plan.phases:
        pairs = math.ceil(phase.batch_size / job.config.workers)
        images = 4 * pairs * phase.patch**2 * (inputs + outputs)
        if images > memory:
            raise UserError(
                f"batch_size={phase.batch_size}: a worker's {pairs} pairs of patches of {phase.patch}² pixels take "
                f"{images >> 30} GiB, and its machine has {memory >> 30}: use a smaller batch_size=, or more workers="
            )


def _next_batch(loader: Prefetcher, device: torch.device) -> Batch:
    batch = next(loader)
    return Batch(*(images.to(device, non_blocking=True) for images in (batch.degraded, batch.clean)))


def _step(job: Job, state: _State, batch: Batch) -> tuple[StepOutcome, dict[str, float]]:
    """The next step: what came of it, and its further figures."""
    config, phase = job.config, job.plan.phase(state.step)
    k = neighbours(state.step, topk=config.topk, seed=config.seed, dense=config.topk_dense)
    rate = learning_rate(
        state.step,
        peak=config.lr,
        steps=config.steps,
        warmup=config.warmup,
        schedule=config.schedule,
        milestones=config.lr_milestones,
    )
    try:
        outcome = train_step(
            state.engine,
            batch.degraded,
            batch.clean,
            k=k,
            rate=rate,
            loss=state.loss,
            accumulate=config.accumulate,
        )
    except RuntimeError as error:
        gpu = isinstance(error, torch.OutOfMemoryError)
        if not gpu and "can't allocate memory" not in str(error):  # the CPU's has no class of its own
            raise
        raise UserError(
            f"the {'GPU' if gpu else 'machine'} cannot hold a micro-step of {len(batch.degraded) // config.accumulate} "
            f"patches of {phase.patch}² pixels: use activation_checkpointing=true, a higher accumulate=, more workers= "
            "or a smaller batch_size="
        ) from error
    if outcome.applied:
        state.ema.update()
        state.skipped_in_row = 0
    else:
        state.skipped += 1
        state.skipped_in_row += 1
        if state.reporter:  # all ranks skip it
            logger.warning("%s: step %d skipped: loss or gradient not finite (%s)", job.task, state.step, outcome.loss)
    state.step += 1
    figures = {"k": k, "lr": rate, "patch": phase.patch, "batch_size": phase.batch_size, "skipped": state.skipped}
    return outcome, figures


def _not_finite(job: Job, state: _State, batch: Batch, outcome: StepOutcome, figures: dict[str, float]) -> NotFinite:
    """Why the run ends. Every rank calls it."""
    if state.reporter:
        state.reporter.flush()  # else nobody hears of the last second's steps
    k, rate = figures["k"], figures["lr"]
    return NotFinite(
        f"{state.skipped_in_row} steps in a row gave a loss or gradient that is not finite "
        f"(last loss {outcome.loss}, k={k}, lr={rate:.3g}): {diagnosis(state.engine, batch, k)}"
    )


def _gather(value: Any) -> list[Any] | None:
    parts: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, parts)
    return parts


@contextmanager
def _on_this_machine(fill: Callable[[Path], None]) -> Iterator[Path]:
    """A folder that one worker of every machine has filled, for all workers of that machine. All of them enter."""
    context = ray.train.get_context()
    with tempfile.TemporaryDirectory(prefix="kgt-resume-") as own:
        if first := context.get_local_rank() == 0:
            fill(Path(own))
        folders: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(folders, (context.get_node_rank(), own) if first else None)
        yield Path(dict(filter(None, folders))[context.get_node_rank()])
        dist.barrier()
