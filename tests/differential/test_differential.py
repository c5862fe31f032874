"""Random graphs against ONNX's reference evaluator and onnxruntime; `campaign` makes a long run of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from onnx import ModelProto, TensorProto, helper, parser

import ds_compiler as ds
from tests.differential.campaign import run
from tests.differential.compare import Different, Tally, check
from tests.differential.models import Case, cases


@seed(0)
@settings(
    max_examples=12,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(cases())
def test_random_graphs(case: Case) -> None:
    check(case.model, Tally(), case.values)


@pytest.mark.slow
def test_a_campaign_finds_nothing(tmp_path: Path) -> None:
    assert run(minutes=10, number=1, save=tmp_path) == 0


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = (_of_one("Sin"), _of_one("Tan"))
    check(right, Tally())
    compiled = ds.compile
    monkeypatch.setattr(ds, "compile", lambda _, **options: compiled(wrong, **options))
    with pytest.raises(Different, match="y, sizes"):
        check(right, Tally())


@pytest.mark.parametrize(("head", "value"), [(0, 0), (0, 4), (4, 0)])
def test_attention_over_no_features(head: int, value: int) -> None:
    """Found by a campaign: heads without elements divided the cache by zero. All weights are equal then."""
    model = parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        attention (float[n,3,{head}] q, float[n,{head},3] k, float[n,3,{value}] v) => (float[n,3,{value}] y) {{
            scores = MatMul (q, k)
            weights = Softmax <axis = -1> (scores)
            y = MatMul (weights, v)
        }}"""
    )
    check(model, Tally())


def _of_one(operator: str) -> ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], "node")], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
