"""Transformer and mobile models exported from `transformers` configurations, with seeded random weights.

Needs torch and transformers (`pip install "ds_compiler[torch]"`); nothing is downloaded. Sequence and
batch axes are dynamic. The `*_small` variants have the same graph with one or two narrow layers, for tests.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.models.fetch import ModelUnavailable


@dataclass(frozen=True)
class Export:
    """What to export: `kind` is a key of EXPORTERS, `config` goes to that configuration class of transformers."""

    kind: str
    config: dict[str, Any]
    attention: str = "sdpa"
    """How attention is spelled: 'sdpa' (torch's fused function, decomposed by the exporter) or 'eager'."""
    opset: int | None = None
    """Opset asked of the exporter; None is its default."""


BERT_SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "vocab_size": 1000,
}
GPT2_SMALL = {"n_layer": 2, "n_embd": 128, "n_head": 4, "vocab_size": 1000, "n_positions": 256}
GPT2_SMALL |= {"bos_token_id": 0, "eos_token_id": 0}
VIT_SMALL = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}
LLAMA = {
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 1376,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
LLAMA_SMALL = LLAMA | {"num_hidden_layers": 1, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 352}
LLAMA_SMALL |= {"vocab_size": 1000}

EXPORTS = {
    "bert_base": Export("bert", {}),
    "bert_small": Export("bert", BERT_SMALL),
    "bert_small_eager": Export("bert", BERT_SMALL, attention="eager"),
    "gpt2": Export("gpt2", {}),
    "gpt2_small": Export("gpt2", GPT2_SMALL),
    "vit_base": Export("vit", {"num_labels": 1000}),
    "vit_small": Export("vit", VIT_SMALL | {"num_labels": 10}),
    "mobilenet_v2": Export("mobilenet_v2", {"num_labels": 1000}),
    "mobilenet_v2_small": Export("mobilenet_v2", {"num_labels": 10, "depth_multiplier": 0.35, "image_size": 96}),
    "llama": Export("llama", LLAMA),
    "llama_small": Export("llama", LLAMA_SMALL),
}

SEED = 20


def build(name: str, path: Path) -> None:
    """Export the model `name` (a key of EXPORTS) to `path`.

    Raises ModelUnavailable if torch, transformers or onnxscript is not installed.
    """
    missing = [m for m in ("torch", "transformers", "onnxscript") if importlib.util.find_spec(m) is None]
    if missing:
        raise ModelUnavailable(f"{name} needs {', '.join(missing)}: pip install 'ds_compiler[torch]'")
    import torch

    torch.manual_seed(SEED)
    export = EXPORTS[name]
    model, example, output_names = EXPORTERS[export.kind](export)
    first = next(iter(example.values()))
    batch = {0: "batch"} if first.dim() == 4 else {0: "batch", 1: "sequence"}
    with _quiet():
        torch.onnx.export(
            model.eval(),
            (),
            path,
            kwargs=example,
            dynamic_shapes=dict.fromkeys(example, batch),
            output_names=output_names,
            opset_version=export.opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter's progress lines and the warnings of its dependencies say nothing about the result."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


def _transformers() -> Any:
    """The package, untyped: its configuration classes take options that their annotations do not list."""
    return importlib.import_module("transformers")


def _tokens(*names: str) -> dict[str, Any]:
    import torch

    return {name: torch.ones(2, 16, dtype=torch.int64) for name in names}


def _bert(export: Export) -> tuple[Any, dict[str, Any], list[str]]:
    transformers = _transformers()
    config = transformers.BertConfig(**export.config, attn_implementation=export.attention)
    example = _tokens("input_ids", "attention_mask", "token_type_ids")
    return transformers.BertModel(config), example, ["last_hidden_state", "pooler_output"]


def _gpt2(export: Export) -> tuple[Any, dict[str, Any], list[str]]:
    transformers = _transformers()
    config = transformers.GPT2Config(**export.config, use_cache=False, attn_implementation=export.attention)
    return transformers.GPT2LMHeadModel(config), _tokens("input_ids", "attention_mask"), ["logits"]


def _llama(export: Export) -> tuple[Any, dict[str, Any], list[str]]:
    transformers = _transformers()
    config = transformers.LlamaConfig(**export.config, use_cache=False, attn_implementation=export.attention)
    return transformers.LlamaForCausalLM(config), _tokens("input_ids", "attention_mask"), ["logits"]


def _vit(export: Export) -> tuple[Any, dict[str, Any], list[str]]:
    import torch

    transformers = _transformers()
    config = transformers.ViTConfig(**export.config, attn_implementation=export.attention)
    return transformers.ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 224, 224)}, ["logits"]


def _mobilenet_v2(export: Export) -> tuple[Any, dict[str, Any], list[str]]:
    """MobileNetV2 whose batch norms hold the statistics of random pictures, so that activations keep their scale."""
    import torch

    transformers = _transformers()
    config = transformers.MobileNetV2Config(**export.config)
    model = transformers.MobileNetV2ForImageClassification(config)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, 0, 0.1)
            module.momentum = 1.0  # keep the statistics of the one batch below
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
    size = config.image_size
    with torch.no_grad():
        model.train()(torch.randn(8, 3, size, size))
    return model, {"pixel_values": torch.randn(2, 3, size, size)}, ["logits"]


EXPORTERS: dict[str, Callable[[Export], tuple[Any, dict[str, Any], list[str]]]] = {
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "vit": _vit,
    "mobilenet_v2": _mobilenet_v2,
}
