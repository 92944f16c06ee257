"""scikit-learn's families: logistic regression, boosted trees, a forest. Rivals of the network.

What skl2onnx 1.20 converts without an error into a graph that answers otherwise is avoided: native
categories of HistGradientBoosting (off by up to .86, for .001 AUC on flights) and missing values
of forests (off by up to .38). So trees read a code as a number, and a missing number as a very low
one; logistic regression, with a column per code, is written as a graph by hand.
"""

# N rows, P numbers, C categories, K codes of all categories together

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from pipelines import metrics
from pipelines.models.graph import OPSETS, Graph, plain_attributes
from pipelines.records import Rows

if TYPE_CHECKING:
    from pipelines import train_params

MISSING = -1000.0
"""What trees read for a missing number: standard deviations that no number has."""
CHUNK = 65_536
"""Rows answered at once; bounds memory."""

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass
class Fitted(ABC):
    """A fitted estimator. best: epoch (0), validation_auc, validation_loss; history: one entry."""

    estimator: Any
    numbers: int
    cardinalities: tuple[int, ...]
    best: dict[str, float]
    history: list[dict[str, float]]

    def predict(self, numbers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """(N,) float32 probability of 1, of numbers (N, P), NaN = missing, and codes (N, C)."""
        parts = [
            self.estimator.predict_proba(
                self.matrix(numbers[at : at + CHUNK], codes[at : at + CHUNK])
            )[:, 1]
            for at in range(0, len(numbers), CHUNK)
        ]
        return np.concatenate(parts, dtype=np.float32) if parts else np.empty(0, dtype=np.float32)

    def forget(self) -> None:  # noqa: B027 - none of them has anything
        """Nothing is kept of a training of seconds that it could be gone on from."""

    @abstractmethod
    def to_onnx(self) -> onnx.ModelProto:
        """Inputs numbers (N, P), codes (N, C), one without columns left out; probability (N, 1)."""

    @abstractmethod
    def matrix(self, numbers: np.ndarray, codes: np.ndarray) -> Any:
        """What the estimator reads of encoded rows, N rows high."""


class Trees(Fitted):
    """Boosted trees or a forest, on (N, P + C) float32."""

    def matrix(self, numbers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        filled = np.where(np.isnan(numbers), np.float32(MISSING), numbers)
        return np.concatenate([filled, codes.astype(np.float32)], axis=1)

    def to_onnx(self) -> onnx.ModelProto:
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType

        columns = self.numbers + len(self.cardinalities)
        with plain_attributes():
            trees = skl2onnx.to_onnx(
                self.estimator,
                initial_types=[("matrix", FloatTensorType([None, columns]))],
                options={"zipmap": False},
                target_opset=OPSETS,
            ).graph
        graph = Graph()
        parts = []
        if self.numbers:
            missing = graph.constant("missing", np.float32(MISSING))
            parts.append(graph.add("Where", graph.add("IsNaN", "numbers"), missing, "numbers"))
        if self.cardinalities:
            parts.append(graph.add("Cast", "codes", to=TensorProto.FLOAT))
        graph.add("Concat", *parts, output="matrix", axis=1)
        graph.nodes += trees.node
        graph.constants += trees.initializer
        one = graph.constant("one", np.array([1], dtype=np.int64))
        graph.add("Gather", trees.output[1].name, one, output="probability", axis=1)
        return graph.model(self.numbers, len(self.cardinalities))


class Logistic(Fitted):
    """Logistic regression on (N, 2 P + K) float32: numbers with 0 for missing, missing, codes."""

    def matrix(self, numbers: np.ndarray, codes: np.ndarray) -> Any:
        from scipy import sparse

        missing = np.isnan(numbers)
        dense = np.concatenate([np.where(missing, 0, numbers), missing], axis=1, dtype=np.float32)
        place = (codes + self._first_code()).ravel()
        row_ends = np.arange(len(codes) + 1) * codes.shape[1]
        ones = np.ones(codes.size, dtype=np.float32)
        shape = (len(codes), sum(self.cardinalities))
        one_hot = sparse.csr_array((ones, place, row_ends), shape=shape)
        return sparse.hstack([sparse.csr_array(dense), one_hot]).tocsr()

    def to_onnx(self) -> onnx.ModelProto:
        """A product for the numbers, a look-up for the codes: no column per code is made."""
        graph = Graph()
        weights = self.estimator.coef_[0].astype(np.float32)
        of_numbers, of_codes = weights[: 2 * self.numbers], weights[2 * self.numbers :]
        logit = graph.constant("bias", self.estimator.intercept_.astype(np.float32).reshape(1, 1))
        if self.numbers:
            missing = graph.add("IsNaN", "numbers")
            known = graph.add("Where", missing, graph.constant("zero", np.float32(0)), "numbers")
            flags = graph.add("Cast", missing, to=TensorProto.FLOAT)
            both = graph.add("Concat", known, flags, axis=1)
            column = graph.constant("of_numbers", of_numbers.reshape(-1, 1))
            logit = graph.add("Add", graph.add("MatMul", both, column), logit)
        if self.cardinalities:
            place = graph.add("Add", "codes", graph.constant("first_code", self._first_code()))
            found = graph.add("Gather", graph.constant("of_codes", of_codes), place)
            axis = graph.constant("axis", np.array([1], dtype=np.int64))
            logit = graph.add("Add", graph.add("ReduceSum", found, axis, keepdims=1), logit)
        graph.add("Sigmoid", logit, output="probability")
        return graph.model(self.numbers, len(self.cardinalities))

    def _first_code(self) -> np.ndarray:
        """(C,) int64: where each category's codes begin among all K."""
        return np.cumsum([0, *self.cardinalities[:-1]], dtype=np.int64)[: len(self.cardinalities)]


def _logistic(settings: train_params.Train, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=500, random_state=seed)


def _boosting(settings: train_params.Train, seed: int) -> Any:
    """Iterations are fixed: stopping on a few validation days would follow their weather."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=settings.boosting.iterations,
        learning_rate=settings.boosting.learning_rate,
        min_samples_leaf=settings.boosting.min_leaf,
        l2_regularization=10.0,
        max_features=0.3,  # share of the columns a split may choose from: .004 AUC on flights
        early_stopping=False,
        random_state=seed,
    )


def _forest(settings: train_params.Train, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        n_estimators=settings.forest.trees,
        min_samples_leaf=settings.forest.min_leaf,
        max_features=0.3,
        max_samples=0.3,
        n_jobs=settings.threads,
        random_state=seed,
    )


FAMILIES: dict[str, tuple[Callable[[train_params.Train, int], Any], type[Fitted]]] = {
    "logistic": (_logistic, Logistic),
    "boosting": (_boosting, Trees),
    "forest": (_forest, Trees),
}


def fit(
    family: str,
    train: Rows,
    validation: Rows,
    cardinalities: Sequence[int],
    settings: train_params.Train,
    seed: int,
    on_epoch: OnEpoch,
) -> Fitted:
    """family: a key of FAMILIES. on_epoch is called once, at the end, as epoch 0."""
    make, shape = FAMILIES[family]
    fitted = shape(make(settings, seed), train.numbers.shape[1], tuple(cardinalities), {}, [])
    began = time.perf_counter()
    fitted.estimator.fit(fitted.matrix(train.numbers, train.codes), train.label)
    speed = len(train) / (time.perf_counter() - began)
    answers = {
        "train": (train.label, fitted.predict(train.numbers, train.codes)),
        "validation": (validation.label, fitted.predict(validation.numbers, validation.codes)),
    }
    found = {f"{part}_loss": metrics.log_loss(*answer) for part, answer in answers.items()}
    found["validation_auc"] = metrics.auc(*answers["validation"])
    fitted.history.append({"epoch": 0.0} | found)
    fitted.best |= {k: v for k, v in fitted.history[0].items() if k != "train_loss"}
    on_epoch(0, found | {"rows_per_second": speed})
    return fitted
