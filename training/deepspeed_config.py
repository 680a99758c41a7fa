"""What DeepSpeed is told, derived from a run's own settings. Without DeepSpeed's import: drivers log it, too."""

from typing import Any

from training.config import RunConfig


def deepspeed_config(config: RunConfig) -> dict[str, Any]:
    """What DeepSpeed is told: derived here and nowhere else, and logged with the run.

    The batch is that of the first phase. Of `precision` it is told nothing: weights and gradients are float32 always,
    and the model computes under torch's autocast (see `engine.DeepSpeedEngine`).
    """
    batch_size = config.phases()[0].batch_size
    zero: dict[str, Any] = {
        "stage": config.zero,
        # Buckets for models of our size: the defaults would set 2 GB aside for each.
        "reduce_bucket_size": 20_000_000,
        "allgather_bucket_size": 20_000_000,
        # Smaller weights stay whole everywhere. The default is larger than a projection of kgt-s.
        "stage3_param_persistence_threshold": 10_000,
    }
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": bool(config.gpus_per_worker)}
    if config.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": bool(config.gpus_per_worker)}
    return {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": batch_size // config.workers // config.accumulate,
        "gradient_accumulation_steps": config.accumulate,
        "gradient_clipping": config.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # the optimizer is ours: torch's Adam or AdamW
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own for offloading wants a compiler on every machine
        "steps_per_print": None,
    }
