"""The model card of a registered version, in markdown."""

from collections.abc import Mapping

from kgt.tasks import get_task
from training.plan import Job


def model_card(job: Job, figures: Mapping[str, float], lineage: Mapping[str, str]) -> str:
    """What the model is for, what it was made from, how good it is and where it ends.

    figures: `input_psnr`, `psnr`, `ssim`, `pairs` of the validation; empty where the version has no val split.
    """
    task, config, model = get_task(job.task), job.config, job.model
    measured = (
        f"| | PSNR (dB) | SSIM |\n|---|---|---|\n| input | {figures['input_psnr']:.2f} | |\n"
        f"| restored | {figures['psnr']:.2f} | {figures['ssim']:.4f} |\n\n"
        f"Means over {figures['pairs']:.0f} pairs of the version's val split, PSNR on {task.protocol.space.upper()}."
        if figures
        else "Not validated: the version of the shards has no val split."
    )
    batches = ", then ".join(f"{phase.batch_size} patches of {phase.patch}²" for phase in config.phases())
    takes = "a raw RGGB mosaic" if model.in_channels == 1 else "an RGB image"
    origin = "\n".join(f"- {name}: {value}" for name, value in lineage.items())
    shards = "\n".join(
        f"- shards: {dataset.store}, {job.task}/{dataset.version}, digest {dataset.digest}"
        + (f", weight {dataset.weight}" if len(job.plan.datasets) > 1 else "")
        for dataset in job.plan.datasets
    )
    return f"""# kgt-{job.task}: {task.title}

A Key-Graph Transformer (arXiv 2402.02634), preset {config.model}{f", ×{model.scale}" if model.scale > 1 else ""}.
Takes {takes} of any size; any k from 64 to 512 trades quality for time.

## Validation

{measured}

## Made from

{shards}
- training: {config.steps} steps of {batches}
- loss {config.loss}, top-k {config.topk}, seed {config.seed}
{origin}

## Limits

It restores what it was trained on: degradations outside the settings of its shards, and pictures unlike their sources,
are not covered. Detail that it adds is plausible, not evidence: not for forensic or medical use.

## Use

    kgt restore photo.png restored.png --model models:/kgt-{job.task}@challenger
"""
