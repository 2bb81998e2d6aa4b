"""What processes that train together import, done once in the process that they are forked from."""

from __future__ import annotations

import importlib

from core.forks import imports_for_forks

MODULES = (
    "mlflow.tracking", "torch",
    "model_registry.tracking", "pipeline.training", "training.sharded.trainer",
    "fbgemm_gpu.split_embedding_configs", "torchrec.distributed.embedding", "torchrec.distributed.model_parallel",
    "torchrec.distributed.planner",
)  # fmt: skip
"""The extra's modules come last: where it is not installed, the server goes on without them, and the processes say what is missing."""

with imports_for_forks():
    for name in MODULES:
        importlib.import_module(name)
