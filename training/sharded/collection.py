"""TorchRec's side: tables cut into blocks of rows, one block for each process, with row-wise Adagrad fused into the backward pass.

This is the one module that knows TorchRec.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.errors import ConfigError

if TYPE_CHECKING:
    from torchrec import EmbeddingCollection
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.types import ShardingPlan

EPSILON = 1e-8
"""Added to the root of Adagrad's sums, as in ``training.embedding``."""
PREFIX = "table_"
"""Before a table's name: TorchRec's own containers have methods called ``values`` and ``items``."""


def require_torchrec() -> None:
    """Raise ``ConfigError`` unless the extra is installed."""
    try:
        with _quiet():
            import torchrec  # noqa: F401
        logging.getLogger("torch.fx").setLevel(logging.ERROR)  # speaks when a table is first read
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"training in several processes needs the extra 'distributed' ({error}): install requirements-distributed.txt "
            "with --no-deps, or set CLOCK_TRAIN_PROCESSES=1"
        ) from None


class RowWiseCollection(nn.Module):
    """Embedding tables whose rows [r · capacity, (r + 1) · capacity) lie in process r.

    Attributes:
        weights: this process's block of each table, shape (capacity, dim); writable.
        accumulators: its rows' sums of squared gradients, shape (capacity,); writable.
    """

    def __init__(self, dim: int, capacities: Mapping[str, int], rate: float) -> None:
        """Make tables of this process's group.

        Args:
            dim: width of a row.
            capacities: rows that each process holds of each table, the same in all processes.
            rate: learning rate.
        """
        super().__init__()
        require_torchrec()
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from torchrec import EmbeddingCollection, EmbeddingConfig
        from torchrec.distributed.comm_ops import set_gradient_division
        from torchrec.distributed.embedding import EmbeddingCollectionSharder
        from torchrec.distributed.model_parallel import DistributedModelParallel
        from torchrec.distributed.types import ShardingEnv

        self.capacities, ranks = dict(capacities), dist.get_world_size()
        tables = [
            EmbeddingConfig(
                name=PREFIX + name, embedding_dim=dim, num_embeddings=rows * ranks, feature_names=[PREFIX + name]
            )
            for name, rows in capacities.items()
        ]
        set_gradient_division(False)  # a loss is over the whole batch already
        fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": rate, "eps": EPSILON}
        sharder = EmbeddingCollectionSharder(fused_params=fused)
        collection = EmbeddingCollection(tables=tables, device=torch.device("meta"))
        with _quiet():
            self.module = DistributedModelParallel(
                collection, env=ShardingEnv.from_process_group(dist.group.WORLD), device=torch.device("cpu"),
                plan=sharding_plan(collection, sharder, ranks), sharders=[sharder], init_data_parallel=False,
            )  # fmt: skip
        self._warm = False
        self.weights: dict[str, Tensor] = {}
        self.accumulators: dict[str, Tensor] = {}
        for lookup in self.module.module._lookups:
            for kernel in lookup._emb_modules:
                fused_tables = kernel.emb_module
                states = fused_tables.split_optimizer_states()
                for table, weight, state in zip(
                    kernel.config.embedding_tables, fused_tables.split_embedding_weights(), states, strict=True
                ):
                    name = table.name.removeprefix(PREFIX)
                    self.weights[name], self.accumulators[name] = weight.detach(), state[0]

    def forward(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings of rows, wherever they lie; all processes call it together.

        Args:
            rows: of each table that it has, in its order, numbered over all processes; shape (N,) each, possibly empty.

        Returns:
            For each table shape (N, dim). The backward pass of their sum of losses updates the rows, in whichever process.
        """
        from torchrec import KeyedJaggedTensor

        features = KeyedJaggedTensor(
            keys=[PREFIX + name for name in rows],
            values=torch.cat(list(rows.values())),
            lengths=torch.tensor([len(each) for each in rows.values()], dtype=torch.int32),
        )
        with nullcontext() if self._warm else _quiet():
            looked_up = self.module(features)
        self._warm = True
        return {name: looked_up[PREFIX + name].values() for name in rows}


def sharding_plan(collection: EmbeddingCollection, sharder: EmbeddingCollectionSharder, ranks: int) -> ShardingPlan:
    """Where each table's rows lie: row-wise, by TorchRec's planner, the same in all processes."""
    from torchrec.distributed.embedding_types import EmbeddingComputeKernel
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
    from torchrec.distributed.types import ShardingType

    names = [config.name for config in collection.embedding_configs()]
    row_wise = ParameterConstraints(
        sharding_types=[ShardingType.ROW_WISE.value], compute_kernels=[EmbeddingComputeKernel.FUSED.value]
    )
    with _quiet():
        planner = EmbeddingShardingPlanner(
            topology=Topology(world_size=ranks, compute_device="cpu", local_world_size=ranks),
            constraints=dict.fromkeys(names, row_wise),
        )
        return planner.collective_plan(collection, [sharder], dist.group.WORLD)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within a ``with`` block, without the libraries' remarks on their defaults and on kernels of other machines."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
