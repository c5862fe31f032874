"""Registration, structures, modes, state dicts, calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn
from ds_compiler.frontends.trace import tree


class Net(nn.Model):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(5, 4)
        self.fc2 = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.fc2(nn.relu(self.fc1(x)))


class Counter(nn.Model):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", np.zeros((), np.float32))
        self.register_buffer("scratch", np.zeros(2, np.float32), persistent=False)
        self.inner = nn.BatchNorm2d(2)

    def forward(self, x: Any) -> Any:
        self.seen = self.seen + ds.numpy.sum(x)
        return self.inner(x)


def test_parameters_buffers_and_parts_are_found_by_path() -> None:
    model = Counter()
    assert [n for n, _ in model.named_parameters()] == ["inner.weight", "inner.bias"]
    assert [n for n, _ in model.named_buffers()] == [
        "seen",
        "scratch",
        "inner.running_mean",
        "inner.running_var",
        "inner.num_batches_tracked",
    ]
    assert [n for n, _ in model.named_modules()] == ["", "inner"]
    assert "scratch" not in model.state_dict() and "seen" in model.state_dict()


def test_super_init_must_come_first() -> None:
    class Early(nn.Model):
        def __init__(self) -> None:
            self.part = nn.Identity()

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\) before it sets 'part'"):
        Early()


@pytest.mark.parametrize("value", [[nn.Identity()], {"a": nn.Identity()}, (np.zeros(2),)])
def test_containers_of_models_and_arrays_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"Identity\.parts is a"):
        nn.Identity().parts = value


def test_parameters_take_arrays_only() -> None:
    with pytest.raises(TypeError, match="weight is a parameter: it takes an array, got int"):
        nn.Linear(2, 2).weight = 3


def test_a_model_is_a_structure_of_its_arrays() -> None:
    model = Net()
    leaves, form = tree.flatten(model)
    assert [leaf.shape for leaf in leaves] == [(4, 5), (4,), (3, 4), (3,)]
    again = tree.unflatten(form, [leaf * 2 for leaf in leaves])
    np.testing.assert_array_equal(again.fc2.bias, 2 * model.fc2.bias)
    assert isinstance(again, Net) and again.fc1.in_features == 5
    assert tree.flatten(Net())[1] == form
    assert tree.flatten(Net().eval())[1] != form


def test_statics_of_equal_value_and_different_type_are_different_forms() -> None:
    a, b = nn.Identity(), nn.Identity()
    a.flag, b.flag = True, 1
    assert tree.flatten(a)[1] != tree.flatten(b)[1]


def test_a_static_list_is_compared_by_its_elements() -> None:
    model = nn.Identity()
    model.sizes = [1, 2]
    before = tree.flatten(model)[1]
    model.sizes.append(3)
    assert tree.flatten(model)[1] != before


def test_a_call_equals_numpy_and_compiles_once_for_each_shape() -> None:
    model, x = Net(), np.random.default_rng(0).standard_normal((6, 5), np.float32)
    hidden = np.maximum(x.astype(np.float64) @ model.fc1.weight.T + model.fc1.bias, 0)
    expected = hidden @ model.fc2.weight.T + model.fc2.bias
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    from ds_compiler.nn.call import _compiled

    count = len(_compiled(Net).programs)
    Net()(x)
    assert len(_compiled(Net).programs) == count
    model(x[:2])
    assert len(_compiled(Net).programs) == count + 1


def test_compile_takes_a_model_and_reads_its_arrays_anew() -> None:
    model, x = Net(), np.ones((2, 5), np.float32)
    fast = ds.compile(model, threads=1)
    np.testing.assert_array_equal(fast(x), model(x))
    model.fc2.bias = model.fc2.bias + 1
    np.testing.assert_array_equal(fast(x), model(x))
    assert "dot_general" in fast.ir()


def test_compile_of_a_model_keeps_sizes_open() -> None:
    model = Net()
    fast = ds.compile(model, dynamic={"x": "batch"})
    for rows in (1, 7):
        x = np.full((rows, 5), 0.5, np.float32)
        np.testing.assert_allclose(fast(x), model(x), rtol=1e-5, atol=1e-6)
    assert len(fast.programs) == 1


def test_a_call_sets_the_buffers_that_forward_assigns() -> None:
    model = Counter()
    x = np.random.default_rng(1).standard_normal((3, 2, 4, 4), np.float32)
    model(x)
    model(x)
    np.testing.assert_allclose(model.seen, 2 * x.sum(), rtol=1e-5)
    assert model.inner.num_batches_tracked == 2
    model.eval()(x)
    assert model.inner.num_batches_tracked == 2


def test_replace_leaves_the_original_alone() -> None:
    model = Net()
    other = model.replace({"fc1.bias": np.ones(4, np.float32)})
    assert other.fc1.bias.sum() == 4 and model.fc1.bias.sum() != 4
    assert other.fc2.weight is model.fc2.weight
    with pytest.raises(KeyError, match=r"no array 'fc3\.bias'"):
        model.replace({"fc3.bias": np.ones(4)})


def test_train_and_eval_reach_all_parts() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    assert [m.training for m in model.eval().modules()] == [False] * 4
    assert [m.training for m in model.train().modules()] == [True] * 4


def test_state_goes_through_a_safetensors_file(tmp_path: Path) -> None:
    model, other = Counter(), Counter()
    model.seen = np.float32(7)
    model.save(str(tmp_path / "model.safetensors"))
    assert other.load(str(tmp_path / "model.safetensors")) == ([], [])
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)
        assert other.state_dict()[name].dtype == array.dtype and other.state_dict()[name].shape == array.shape


def test_load_state_dict_names_everything_that_does_not_fit_and_changes_nothing() -> None:
    model = Net()
    before = model.state_dict()
    state = {**before, "fc1.weight": np.zeros((9, 9), np.float32), "head": np.zeros(1)}
    del state["fc2.bias"]
    with pytest.raises(ValueError, match=r"fc2\.bias is missing; head is unexpected; fc1\.weight has shape \(9, 9\)"):
        model.load_state_dict(state)
    assert all(model.state_dict()[n] is before[n] for n in before)
    del state["fc1.weight"]
    assert model.load_state_dict(state, strict=False) == (["fc1.weight", "fc2.bias"], ["head"])


def test_loaded_arrays_are_copies() -> None:
    model = Net()
    state = {n: a.copy() for n, a in model.state_dict().items()}
    model.load_state_dict(state)
    state["fc1.bias"][:] = 9
    assert not (model.fc1.bias == 9).any()


def test_initial_values_depend_on_the_seed_alone() -> None:
    nn.seed(3)
    first = Net()
    nn.seed(3)
    second = Net()
    third = Net()
    np.testing.assert_array_equal(first.fc1.weight, second.fc1.weight)
    assert (first.fc1.weight != third.fc1.weight).all()
    np.testing.assert_array_equal(nn.Linear(4, 4, key=5).weight, nn.Linear(4, 4, key=(5, 0)).weight)
    assert not np.array_equal(nn.Linear(4, 4, key=5).bias, nn.Linear(4, 4, key=5).weight[0])


@pytest.mark.parametrize(
    ("made", "bound"),
    [
        (lambda: nn.Linear(100, 400).weight, 0.1),
        (lambda: nn.Linear(100, 4000).bias, 0.1),
        (lambda: nn.Conv2d(4, 200, 5).weight, 0.1),
        (lambda: nn.MultiHeadAttention(150, 5).in_proj_weight, 0.1),
    ],
)
def test_uniform_initial_values_have_pytorchs_bounds(made: Any, bound: float) -> None:
    values = made()
    assert values.dtype == np.float32
    assert 0.99 * bound < np.abs(values).max() <= bound
    assert abs(values.std() - bound / np.sqrt(3)) < 0.02 * bound


def test_lists_and_sequences_have_pytorchs_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False))
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight"]
    assert len(model) == 3 and isinstance(model[-1], nn.Linear)
    with pytest.raises(TypeError, match="ModuleList holds models, got int"):
        nn.ModuleList([1])  # type: ignore[list-item]


def test_a_model_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"ModuleList defines no forward\(\)"):
        nn.ModuleList()(1)


def test_a_wrong_shape_names_the_line_of_forward() -> None:
    with pytest.raises(ds.CompileError, match=r"linear: input has shape \(2, 4\).*test_model\.py:\d+"):
        Net()(np.ones((2, 4), np.float32))
