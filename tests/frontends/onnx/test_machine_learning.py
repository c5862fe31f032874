"""Operators of ai.onnx.ml that ONNX's own cases leave out: support vector machines, encoders, feature vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import CompileError
from tests.frontends.onnx.opened import Array, check, node_model, onnxruntime, results

DOMAIN = "ai.onnx.ml"
KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")
NO_KERNEL: dict[str, Any] = {"kernel_type": "LINEAR", "kernel_params": [0.0, 0.0, 0.0]}


def compare(operator: str, inputs: list[Array], outputs: int = 1, **attributes: Any) -> None:
    model = node_model(operator, inputs, outputs=outputs, open_sizes=True, opset=1, domain=DOMAIN, **attributes)
    check(results(model, inputs), onnxruntime(model, inputs), atol=1e-6)


def machine(classes: int, kernel: str, probabilities: bool = False) -> dict[str, Any]:
    """Attributes of a classifier with 3 features, and 2, 3 … vectors for the classes."""
    rng = np.random.default_rng(classes)
    counts = [2 + c for c in range(classes)]
    pairs = classes * (classes - 1) // 2
    found: dict[str, Any] = {
        "classlabels_ints": [5 * c - 2 for c in range(classes)],
        "coefficients": rng.standard_normal((classes - 1) * sum(counts)).tolist(),
        "support_vectors": rng.standard_normal(sum(counts) * 3).tolist(),
        "vectors_per_class": counts,
        "rho": (rng.standard_normal(pairs) * 0.3).tolist(),
        "kernel_type": kernel,
        "kernel_params": [0.4, 0.3, 3.0],
    }
    if probabilities:
        found |= {"prob_a": (-1 - rng.random(pairs)).tolist(), "prob_b": (rng.standard_normal(pairs) * 0.2).tolist()}
    return found


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("classes", [2, 4])
def test_classifier(classes: int, kernel: str) -> None:
    x = np.random.default_rng(7).standard_normal((40, 3)).astype(np.float32)
    compare("SVMClassifier", [x], 2, **machine(classes, kernel))


@pytest.mark.parametrize("classes", [2, 5])
def test_probabilities(classes: int) -> None:
    x = np.random.default_rng(8).standard_normal((40, 3)).astype(np.float32)
    compare("SVMClassifier", [x], 2, **machine(classes, "RBF", probabilities=True))


@pytest.mark.parametrize(
    ("classes", "probabilities", "post_transform"),
    [(2, False, "LOGISTIC"), (2, False, "SOFTMAX"), (3, False, "LOGISTIC"), (3, False, "SOFTMAX_ZERO"),
     (3, True, "SOFTMAX")],
)  # fmt: skip
def test_scores_after_the_classifier(classes: int, probabilities: bool, post_transform: str) -> None:
    x = np.random.default_rng(9).standard_normal((20, 3)).astype(np.float32)
    attributes = machine(classes, "RBF", probabilities)
    compare("SVMClassifier", [x], 2, **attributes, post_transform=post_transform)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_classifier_without_vectors(classes: int, positive: bool) -> None:
    rng = np.random.default_rng(10)
    weights = rng.standard_normal(classes * 4)
    x = rng.standard_normal((30, 4)).astype(np.float32)
    attributes: dict[str, Any] = {"coefficients": np.abs(weights) if positive else weights, "rho": [0.1]} | NO_KERNEL
    compare("SVMClassifier", [x], 2, classlabels_ints=list(range(3, 3 + classes)), **attributes)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_classifier_of_other_types(dtype: type) -> None:
    x = (np.random.default_rng(11).standard_normal((9, 3)) * 3).astype(dtype)
    compare("SVMClassifier", [x], 2, **machine(3, "RBF"))


@pytest.mark.parametrize("one_class", [0, 1])
@pytest.mark.parametrize("kernel", [*KERNELS, ""])
def test_regressor(kernel: str, one_class: int) -> None:
    rng = np.random.default_rng(12)
    x = rng.standard_normal((30, 3)).astype(np.float32)
    count = 5 if kernel else 3
    attributes: dict[str, Any] = {
        "coefficients": rng.standard_normal(count),
        "rho": [0.2],
        "one_class": one_class,
    } | NO_KERNEL
    if kernel:
        attributes |= {
            "n_supports": 5,
            "support_vectors": rng.standard_normal(15),
            "kernel_type": kernel,
            "kernel_params": [0.5, 0.2, 2.0],
        }
    compare("SVMRegressor", [x], **attributes)


def test_sizes_that_do_not_fit_are_named() -> None:
    attributes = machine(3, "RBF") | {"coefficients": [1.0, 2.0]}
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(CompileError, match="2 coefficients and 3 rho for 3 classes and 9 vectors"):
        results(node_model("SVMClassifier", [x], outputs=2, opset=1, domain=DOMAIN, **attributes), [x])
    wide = np.zeros((2, 4), np.float32)
    with pytest.raises(CompileError, match="expected rows of 3 features"):
        results(node_model("SVMClassifier", [wide], outputs=2, opset=1, domain=DOMAIN, **machine(3, "RBF")), [wide])


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_one_hot(dtype: type) -> None:
    """Unknown categories give zeros; of a category that stands twice the last place counts; fractions are cut off."""
    x = np.array([[3, -1, 7], [9, 3, 0]]) + (0.75 if dtype is not np.int64 else 0)
    compare("OneHotEncoder", [x.astype(dtype)], cats_int64s=[7, 3, 0, -1, 3])


def test_feature_vectors() -> None:
    rng = np.random.default_rng(13)
    inputs = [rng.standard_normal((4, width)).astype(np.float32) for width in (2, 3, 1)]
    expected = [np.concatenate([inputs[0][:, :1], inputs[1], np.zeros((4, 1)), inputs[2]], 1).astype(np.float32)]
    model = node_model("FeatureVectorizer", inputs, opset=1, domain=DOMAIN, inputdimensions=[1, 4, 1])
    check(results(model, inputs), expected)
