"""Whole networks through ``torch.compile(backend="ds")``: forward and backward as in eager mode, nothing left over."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import ds_compiler.torch as backend  # noqa: E402

TOLERANCE = 1e-4
Case = tuple[Any, dict[str, Any]]


def _ids() -> Any:
    return torch.randint(0, 99, (2, 12), generator=torch.Generator().manual_seed(1))


def _bert() -> Case:
    config = transformers.BertConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
    )
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 8:] = 0
    model = transformers.BertForSequenceClassification(config)
    return model, {"input_ids": _ids(), "attention_mask": mask, "labels": torch.tensor([0, 1])}


def _gpt2() -> Case:
    config = transformers.GPT2Config(
        vocab_size=99,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = transformers.GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # or transformers logs a warning in the middle of forward, which breaks the graph
    return model, {"input_ids": _ids(), "labels": _ids()}


def _vit() -> Case:
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
    )
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    return transformers.ViTForImageClassification(config), {"pixel_values": pixels, "labels": torch.tensor([0, 1])}


def _resnet() -> Case:
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic"
    )
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 1, 0, 1])
    return transformers.ResNetForImageClassification(config), {"pixel_values": pixels, "labels": labels}


def _llama() -> Case:
    config = transformers.LlamaConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config), {"input_ids": _ids(), "labels": _ids()}


@pytest.mark.parametrize("make", [_bert, _gpt2, _vit, _resnet, _llama], ids=lambda f: f.__name__[1:])
def test_forward_and_backward_are_as_in_eager_mode(make: Callable[[], Case]) -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    model, inputs = make()
    model.train()
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    backend.reset()

    expected = model(**inputs)
    expected.loss.backward()
    actual = torch.compile(twin, backend="ds")(**inputs)
    actual.loss.backward()

    torch.testing.assert_close(actual.logits, expected.logits, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(actual.loss, expected.loss, rtol=TOLERANCE, atol=TOLERANCE)
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=TOLERANCE, atol=TOLERANCE, msg=name)
    for (name, a), b in zip(model.named_buffers(), twin.buffers(), strict=True):  # running statistics
        torch.testing.assert_close(b, a, rtol=TOLERANCE, atol=TOLERANCE, msg=name)
    report = backend.report()
    assert not report.fallbacks
    assert [g.kind for g in report.graphs] == ["forward", "backward"]
    assert not torch._dynamo.utils.counters["graph_break"]
    layers = 0 if make is _resnet else 2
    forward, backward = (Counter(k.tier for k in g.programs[0].report().kernels) for g in report.graphs)
    assert forward["attention"] == layers and backward["attention_backward"] == layers


@pytest.mark.parametrize("make", [_bert, _gpt2, _vit], ids=lambda f: f.__name__[1:])
def test_dropout_is_compiled_and_the_seed_decides_it(make: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    model, inputs = make()
    config = model.config
    config.problem_type = "single_label_classification"  # or the first call sets it, and the second compiles again
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.1)
    twin = type(model)(config).train()
    if hasattr(model, "loss_type"):
        twin.loss_type = model.loss_type
    torch._dynamo.reset()
    backend.reset()
    compiled = torch.compile(twin, backend="ds", options={"cache": False})

    def step(seed: int) -> list[Any]:
        torch.manual_seed(seed)
        twin.zero_grad()
        result = compiled(**inputs)
        result.loss.backward()
        return [result.logits.detach(), *(p.grad for p in twin.parameters() if p.grad is not None)]

    first, again, other = step(1), step(1), step(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], model.eval()(**inputs).logits)
    report = backend.report()
    assert not report.fallbacks
    assert [g.kind for g in report.graphs] == ["forward", "backward"]
