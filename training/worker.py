"""What one Ray Train worker runs: engine, steps, checkpoints. Reports go to the controller's board."""

import dataclasses
import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import safetensors.torch
import torch
import torch.distributed as dist

from kgt.errors import UserError
from kgt.model import KGT
from kgt.weights import save_weights
from pipelines.storage import Store, open_store
from training import checkpoint
from training.config import loss_terms
from training.data import Batch, Prefetcher, batches
from training.diagnosis import spoilt, spoilt_module
from training.ema import Ema
from training.engine import DeepSpeedEngine
from training.losses import weighted
from training.order import consumed
from training.plan import Job
from training.profiling import StepProfiler
from training.remote import NotFinite
from training.schedule import learning_rate, neighbours
from training.step import StepOutcome, train_step

REPORT_SECONDS = 1.0
WEIGHTS = "weights.safetensors"

logging.getLogger("botocore").setLevel(logging.WARNING)  # Ray Train shows workers' INFO lines
logger = logging.getLogger("training")


def train(loop: dict[str, Any]) -> None:
    """Ray Train's loop: from the last committed checkpoint, or the start, to the last step and its weights in store.

    loop: `job` and `board`, an actor with `push(task, records)`.
    """
    job: Job = loop["job"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(job.config.cpus_per_worker)
    state = _State(job, rank)
    state.resume()
    reporter = _Reporter(job, loop["board"]) if rank == 0 else None
    profiler = StepProfiler(job.config.profiled() if rank == 0 else range(0), state.store, f"{job.task}/profile")
    if state.step < job.config.steps:
        loader = Prefetcher(batches(job.plan, rank=rank, workers=workers, step=state.step))
        try:
            while state.step < job.config.steps:
                profiler.begin(state.step + 1)
                _step(job, state, loader, reporter)
                if trace := profiler.end(state.step):
                    reporter.say(f"trace of torch.profiler: {trace}")
                if state.step % job.config.checkpoint_every == 0 or state.step == job.config.steps:
                    if reporter:
                        reporter.flush()  # a resumed run would not report these steps again
                    state.save()
        finally:
            loader.close()
    state.save_weights()
    if reporter:
        reporter.flush()
    dist.barrier()


class _State:
    """What a checkpoint holds: weights, optimizer, average, counters."""

    def __init__(self, job: Job, rank: int) -> None:
        self.job = job
        self.rank = rank
        self.store: Store = open_store(job.config.out)
        self.device = ray.train.torch.get_device()
        torch.manual_seed(job.config.seed)
        model = KGT(job.model).to(self.device)
        model.checkpoint_activations(job.config.activation_checkpointing)
        self.engine = DeepSpeedEngine(model, job.config)
        self.loss = weighted(loss_terms(job.config.loss))
        self.ema = Ema(self.engine.weights(), job.config.ema)
        self.step = 0
        self.skipped = 0
        self.skipped_in_row = 0

    def resume(self) -> None:
        """Go on from the last committed checkpoint, the same on every rank."""
        found = [checkpoint.latest(self.store, self.job.task) if self.rank == 0 else None]
        dist.broadcast_object_list(found)
        if found[0] is None:
            return
        state = found[0].state
        if state["digest"] != self.job.digest:
            raise checkpoint.CheckpointError(
                f"step {found[0].step} was trained on manifest {state['digest']}, not the pinned one"
            )
        plan = self.job.plan
        if state["consumed"] != consumed(plan.samples(found[0].step), plan.streams):
            raise checkpoint.CheckpointError(f"step {found[0].step} was trained on other batches than this run's")
        if self.job.config.zero and state["workers"] != dist.get_world_size():
            raise UserError(
                f"the checkpoint of step {found[0].step} was made by {state['workers']} workers, and with "
                f"zero={self.job.config.zero} only as many can go on: use workers={state['workers']}"
            )
        with tempfile.TemporaryDirectory(prefix="kgt-resume-") as folder:
            checkpoint.fetch(self.store, found[0], Path(folder))
            self.engine.load(Path(folder))
            average = safetensors.torch.load_file(Path(folder) / "ema.safetensors")
            self.ema.load(self.engine.part(average), state["ema_updates"])
        self.step, self.skipped, self.skipped_in_row = found[0].step, state["skipped"], state["skipped_in_row"]

    def save(self) -> None:
        """Write a checkpoint, every rank its part, and remove old ones."""
        config, plan = self.job.config, self.job.plan
        state = {
            "digest": self.job.digest,
            "workers": dist.get_world_size(),
            "consumed": consumed(plan.samples(self.step), plan.streams),
            "ema_updates": self.ema.updates,
            "skipped": self.skipped,
            "skipped_in_row": self.skipped_in_row,
        }
        with tempfile.TemporaryDirectory(prefix="kgt-checkpoint-") as folder:
            self.engine.save(Path(folder))
            average = self.engine.whole(self.ema.shadow)
            if self.rank == 0:
                safetensors.torch.save_file(average, Path(folder) / "ema.safetensors")
            checkpoint.save(self.store, self.job.task, self.step, Path(folder), state, rank=self.rank, gather=_gather)
        if self.rank == 0:
            checkpoint.prune(self.store, self.job.task, config.keep)

    def save_weights(self) -> None:
        """The averaged weights as the run's result. Every rank calls it; rank 0 writes."""
        average = self.engine.whole(self.ema.shadow)
        if self.rank:
            return
        model = KGT(self.job.model)
        model.load_state_dict(average)
        with tempfile.TemporaryDirectory(prefix="kgt-weights-") as folder:
            path = Path(folder) / WEIGHTS
            save_weights(model, path, metadata={"task": self.job.task})
            self.store.put(f"{self.job.task}/{WEIGHTS}", path)


class _Reporter:
    """Collects a record a step and sends them on about once a second."""

    def __init__(self, job: Job, board: Any) -> None:
        self._job = job
        self._board = board
        self._records: list[dict[str, float]] = []
        self._sent = time.monotonic()

    def add(self, step: int, outcome: StepOutcome, **more: float) -> None:
        """One step's figures. PSNR is of the training batch, in dB."""
        psnr = -10 * math.log10(outcome.mse) if 0 < outcome.mse < math.inf else math.nan
        self._records.append({"step": step, "psnr": psnr, **dataclasses.asdict(outcome), **more})
        if time.monotonic() - self._sent >= REPORT_SECONDS:
            self.flush()

    def say(self, what: str) -> None:
        """What else there is to say."""
        ray.get(self._board.say.remote(self._job.task, what))

    def flush(self) -> None:
        """Send what there is, and see it arrive."""
        ray.get(self._board.push.remote(self._job.task, self._records))
        self._records, self._sent = [], time.monotonic()


def _step(job: Job, state: _State, loader: Prefetcher, reporter: _Reporter | None) -> None:
    config, started, phase = job.config, time.perf_counter(), job.plan.phase(state.step)
    batch = next(loader)
    batch = Batch(*(images.to(state.device, non_blocking=True) for images in (batch.degraded, batch.clean)))
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
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU cannot hold a micro-step of {len(batch.degraded) // config.accumulate} patches of {phase.patch}² "
            "pixels: use activation_checkpointing=true, a higher accumulate=, more workers= or a smaller batch_size="
        ) from error
    if outcome.applied:
        state.ema.update()
        state.skipped_in_row = 0
    else:
        state.skipped += 1
        state.skipped_in_row += 1
        if reporter is not None:  # all ranks skip it
            logger.warning("%s: step %d skipped: loss or gradient not finite (%s)", job.task, state.step, outcome.loss)
    state.step += 1
    if reporter is not None:
        figures = {"k": k, "lr": rate, "patch": phase.patch, "batch_size": phase.batch_size, "skipped": state.skipped}
        seconds = time.perf_counter() - started
        reporter.add(state.step, outcome, **figures, wait=loader.waited, seconds=seconds)
    if state.skipped_in_row >= config.max_skipped:
        raise NotFinite(
            f"{state.skipped_in_row} steps in a row gave a loss or gradient that is not finite "
            f"(last loss {outcome.loss}, k={k}, lr={rate:.3g}): {_diagnosis(state.engine, batch, k)}"
        )


def _diagnosis(engine: DeepSpeedEngine, batch: Batch, k: int) -> str:
    """What is wrong, on whichever rank, and what may help. Every rank calls it."""
    if cause := _first(spoilt("images", {"degraded": batch.degraded, "clean": batch.clean})):
        return f"{cause}; `python pipelines/datasets.py verify` checks the shards"
    cause = (
        _first(spoilt("weights", engine.weights()))
        # Not before all ranks are here: under ZeRO 3 they need one another to compute.
        or _first(spoilt_module(engine.model, lambda: engine.forward(batch.degraded, k)))
        or "images, weights and activations are finite, but the gradient is not"
    )
    return f"{cause}; a lower lr= or clip=, or precision=fp32, may help"


def _first(found: str | None) -> str | None:
    """What the first rank that found something has found. Every rank calls it."""
    all_found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(all_found, found)
    return next(filter(None, all_found), None)


def _gather(value: Any) -> list[Any] | None:
    parts: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, parts)
    return parts
