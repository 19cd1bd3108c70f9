"""What is measured: logits, targets, and the float64 results that everything has to agree with."""

import functools
import pathlib
import sys

import ml_dtypes
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Of the tests: the C ABI's structs, the models of one operator.
sys.path.append(str(ROOT / "tests/python"))

from focal_loss_onnx import reference  # noqa: E402

CLASSES = 80
# Rows repeat after so many, so that a result is known without computing it for every row.
DISTINCT_ROWS = 20_000
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ALPHA = {"sigmoid": 0.25, "softmax": -1.0}


class Problem:
    """Copies of the same rows in memory of their own.

    sigmoid: logits of a trained detector and an object in every 200th row; softmax: those of a classifier.
    """

    def __init__(self, rows, copies=1, activation="sigmoid", dtype="float32", dense=False):
        rng = np.random.default_rng(0)
        self.rows, self.copies, self.activation, self.dtype = rows, copies, activation, dtype
        self.alpha = ALPHA[activation]
        distinct = min(rows, DISTINCT_ROWS)
        mean, std = {"sigmoid": (-4, 1), "softmax": (0, 2)}[activation]
        self.block = rng.normal(mean, std, (distinct, CLASSES)).astype(DTYPES[dtype])
        self.block_indices = rng.integers(0, CLASSES, distinct)
        if activation == "sigmoid":
            self.block_indices[np.arange(distinct) % 200 != 0] = CLASSES
        self.logits = self.repeated(self.block)
        self.indices = self.repeated(self.block_indices)
        one_hot = np.eye(CLASSES + 1, CLASSES, dtype=DTYPES[dtype])  # the background's row is zero
        self.dense = self.repeated(one_hot[self.block_indices]) if dense else None

    @property
    def elements(self):
        return self.rows * CLASSES

    def repeated(self, block):
        result = np.empty((self.copies, self.rows, *block.shape[1:]), block.dtype)
        for start in range(0, self.rows, len(block)):
            part = result[:, start : start + len(block)]
            part[:] = block[: part.shape[1]]
        return result

    @functools.cache
    def expected(self, gamma=2.0):
        """The sum of the losses, and the gradient of the rows that repeat."""
        given = dict(activation=self.activation, alpha=self.alpha, gamma=gamma)
        logits, indices = self.block.astype(np.float64), self.block_indices
        losses = reference.focal_loss(logits, indices, reduction="none", **given).reshape(len(logits), -1).sum(1)
        gradient = reference.focal_loss_grad(1.0, logits, indices, reduction="sum", **given)
        return np.resize(losses, self.rows).sum(), gradient
