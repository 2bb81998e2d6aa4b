"""torch-rechub's DCN-v2, DeepFM and DIN on a log's columns, trained once or continued day by day."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from studies.columns import ITEM, Columns
from studies.peer_models import log_loss

logger = logging.getLogger("studies")

DIM, HIDDEN, CROSS_LAYERS = 16, [64, 32], 2
BATCH, PREDICTED_AT_ONCE = 256, 4096
WEIGHT_DECAY = 1e-5
"""That of torch-rechub's own trainer."""
BINS = 16
"""DIN takes categories only: numbers are binned by quantiles of the first rows that it is fitted to."""
RECENT_ITEMS = "recent"


class RechubPeer:
    """A ranking model of torch-rechub with Adam, in batches that are shuffled within each pass.

    Args:
        model: ``dcn_v2``, ``deepfm`` or ``din``.
        columns: of the log.
        seed: of weights and shuffling.
    """

    RATES = (0.001, 0.003)
    MOST_PASSES = 4

    def __init__(self, model: str, columns: Columns, seed: int) -> None:
        self.model, self.columns, self.seed = model, columns, seed
        self.rate, self.passes = self.RATES[0], 1
        self.label = torch.from_numpy(columns.label.astype(np.float32))
        self.raw = np.column_stack(list(columns.numbers.values()))
        self.inputs = {name: torch.from_numpy(codes) for name, codes in columns.categories.items()}
        self.inputs[RECENT_ITEMS] = torch.from_numpy(columns.recent)

    def tune(self, fitted: np.ndarray, checked: np.ndarray) -> None:
        """Learning rate and number of passes."""
        trials: list[tuple[float, float, int]] = []
        for rate in self.RATES:
            self.rate = rate
            self._begin(fitted)
            for done in range(1, self.MOST_PASSES + 1):
                self._pass(fitted)
                trials.append((log_loss(self.columns.label[checked], self.predict(checked)), rate, done))
        loss, self.rate, self.passes = min(trials)
        logger.info("%s: rate %g, %d passes (log-loss %.4f)", self.model, self.rate, self.passes, loss)

    def fit(self, rows: np.ndarray) -> None:
        self._begin(rows)
        for _ in range(self.passes):
            self._pass(rows)

    def update(self, past: np.ndarray, new: np.ndarray) -> None:
        """One pass over the new rows."""
        del past
        self._pass(new)

    @torch.no_grad()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        self.network.eval()
        parts = np.array_split(rows, max(1, len(rows) // PREDICTED_AT_ONCE))
        return np.concatenate([self.network(self._batch(torch.from_numpy(part))).numpy() for part in parts])

    def _begin(self, rows: np.ndarray) -> None:
        """A network with fresh weights, and numbers standardized or binned by these rows."""
        torch.set_num_threads(1)
        for at, name in enumerate(self.columns.numbers):
            values, known = self.raw[:, at], self.raw[rows, at]
            if self.model == "din":
                edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS))
                self.inputs[name] = torch.from_numpy(np.searchsorted(edges, values, side="right").astype(np.int32))
            else:
                self.inputs[name] = torch.from_numpy((values - known.mean()) / (known.std() + 1e-6))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = self._network()
        self.shuffle = np.random.default_rng(self.seed)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=self.rate, weight_decay=WEIGHT_DECAY)

    def _network(self) -> Any:
        from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
        from torch_rechub.models.ranking import DIN, DCNv2, DeepFM

        sizes = {name: int(codes.max()) + 1 for name, codes in self.columns.categories.items()}
        sizes[ITEM] = max(sizes[ITEM], int(self.columns.recent.max()) + 1)
        sparse = [SparseFeature(name, vocab_size=size, embed_dim=DIM) for name, size in sizes.items()]
        if self.model == "din":
            history = SequenceFeature(
                RECENT_ITEMS, vocab_size=sizes[ITEM], embed_dim=DIM, pooling="concat", shared_with=ITEM
            )
            others = [feature for feature in sparse if feature.name != ITEM]
            others += [SparseFeature(name, vocab_size=BINS, embed_dim=DIM) for name in self.columns.numbers]
            target = [feature for feature in sparse if feature.name == ITEM]
            return DIN(others, [history], target, {"dims": list(HIDDEN)}, {"dims": [36]})
        dense = [DenseFeature(name) for name in self.columns.numbers]
        mlp: dict[str, Any] = {"dims": list(HIDDEN), "activation": "relu"}
        if self.model == "deepfm":
            return DeepFM(deep_features=[*sparse, *dense], fm_features=sparse, mlp_params=mlp)
        return DCNv2([*sparse, *dense], CROSS_LAYERS, mlp, use_low_rank_mixture=False)

    def _pass(self, rows: np.ndarray) -> None:
        """One pass over rows, in a random order."""
        self.network.train()
        order = torch.from_numpy(self.shuffle.permutation(rows))
        for at in order.split(BATCH):
            if len(at) > 1:  # its batch normalization needs two
                loss = torch.nn.functional.binary_cross_entropy(self.network(self._batch(at)), self.label[at])
                self.adam.zero_grad()
                loss.backward()
                self.adam.step()

    def _batch(self, at: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: values[at] for name, values in self.inputs.items() if name != RECENT_ITEMS or self.model == "din"}
