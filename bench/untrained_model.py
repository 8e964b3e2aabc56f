"""An artifact whose weights are random, of a `seed`: the item tower costs the same as a trained one's.

A process of its own (bench/job.py), so that the bench itself never loads torch.
"""

from __future__ import annotations

import torch

from bench.job import Job
from models.aif import AIF
from models.config import ModelConfig
from models.export import export


def main(job: Job) -> None:
    """Write the artifact of the default model below the job's folder."""
    deployment = job.deployment
    torch.manual_seed(job.options.get("seed", 1))
    model = AIF(ModelConfig.of(deployment))
    exported = export(model, {"note": "random weights, for measurements"}, deployment.data_dir / "artifacts")
    job.report(artifact=str(exported.folder))


if __name__ == "__main__":
    main(Job.from_argv())
