"""`transformers` models trained for an epoch through ``torch.compile(backend="ds")``, beside PyTorch in eager mode.

``python -m ds_compiler.demo.finetune bert`` tells prose from code, ``gpt2`` continues text; both read modules of
Python's library as bytes. The configurations are small and the weights random, since nothing is downloaded. In float32
the losses of all steps agree with eager mode's to `TOLERANCE`, and so does the metric on data that was not trained on.
"""

from __future__ import annotations

import importlib
import io
import logging
import sys
import time
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ds_compiler.demo.history import History, Say, missing, progress, save_curve
from ds_compiler.demo.training import python_text

TOLERANCE = 2e-4
"""Relative, over an epoch: differences in the last bit grow with every step that AdamW takes."""

Batch = dict[str, Any]
_LENGTH = 64
_ROWS = 16


def train(name: str, backend: str | None = "ds", steps: int = 100, say: Say | None = None) -> History:
    """One epoch.

    Args:
        name: ``bert`` or ``gpt2``.
        backend: of torch.compile; None for eager mode.
        steps: how many batches the epoch has.
        say: is told of each step.
    """
    import torch

    torch.manual_seed(0)
    model, batches, unseen = _bert(steps) if name == "bert" else _gpt2(steps)
    model.train()
    step = torch.compile(model, backend=backend) if backend else model  # the one line
    optimizer = torch.optim.AdamW(model.parameters(), 5e-4, weight_decay=0.01)
    history = History("accuracy" if name == "bert" else "loss on unseen text")
    start = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad()
        loss = step(**batch).loss
        loss.backward()
        optimizer.step()
        history.losses.append(float(loss.detach()))
        if say is not None:
            say(len(history.losses), steps, history.losses[-1])
    history.seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        results = [(model(**batch), batch["labels"]) for batch in unseen]
    if name == "bert":
        history.score = float(np.mean([(r.logits.argmax(-1) == labels).float().mean() for r, labels in results]))
    else:
        history.score = float(np.mean([r.loss for r, _ in results]))
    return history


def _bert(steps: int) -> tuple[Any, Iterator[Batch], list[Batch]]:
    """A sequence classifier; whether 64 bytes are prose (comments and docstrings) or code."""
    transformers: Any = importlib.import_module("transformers")

    config = transformers.BertConfig(
        vocab_size=257,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=_LENGTH + 1,
        hidden_dropout_prob=0.0,  # so that eager mode computes the same
        attention_probs_dropout_prob=0.0,
        problem_type="single_label_classification",
    )
    kinds = [np.frombuffer(text.encode(), np.uint8) for text in prose_and_code()]

    def batches(count: int, seed: int, part: slice) -> Iterator[Batch]:
        random = np.random.default_rng(seed)
        for _ in range(count):
            labels = random.integers(0, 2, _ROWS)
            rows = []
            for label in labels:
                text = kinds[label][int(len(kinds[label]) * part.start) : int(len(kinds[label]) * part.stop)]
                first = random.integers(0, len(text) - _LENGTH)
                rows.append([256, *text[first : first + _LENGTH]])  # 256 starts a sequence
            yield _tensors(input_ids=np.array(rows, np.int64), attention_mask=np.ones_like(rows), labels=labels)

    unseen = list(batches(20, 1, slice(0.9, 1.0)))
    return transformers.BertForSequenceClassification(config), batches(steps, 0, slice(0.0, 0.9)), unseen


def _gpt2(steps: int) -> tuple[Any, Iterator[Batch], list[Batch]]:
    """A language model of bytes."""
    transformers: Any = importlib.import_module("transformers")

    config = transformers.GPT2Config(
        vocab_size=256,
        n_embd=128,
        n_layer=2,
        n_head=4,
        n_positions=_LENGTH,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # or transformers logs a warning in the middle of forward, where Dynamo must break
    ids = np.frombuffer(python_text().encode(), np.uint8).astype(np.int64)
    cut = len(ids) * 9 // 10

    def batches(count: int, seed: int, part: np.ndarray[Any, Any]) -> Iterator[Batch]:
        random = np.random.default_rng(seed)
        for _ in range(count):
            starts = random.integers(0, len(part) - _LENGTH, _ROWS)
            rows = part[starts[:, None] + np.arange(_LENGTH)]
            yield _tensors(input_ids=rows, labels=rows)

    return model, batches(steps, 0, ids[:cut]), list(batches(10, 1, ids[cut:]))


def _tensors(**arrays: Any) -> Batch:
    import torch

    return {name: torch.tensor(array) for name, array in arrays.items()}


def prose_and_code(characters: int = 400_000) -> tuple[str, str]:
    """Comments and docstrings, and the rest, of modules of Python's library."""
    import sysconfig

    prose, code = io.StringIO(), io.StringIO()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source = "".join(c for c in path.read_text(encoding="utf-8", errors="ignore") if c == "\n" or " " <= c <= "~")
        first = True  # a string that begins a line is a docstring
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                prose.write(token.string.lstrip("# ") + " ")
            elif token.type == tokenize.STRING and first:
                prose.write(" ".join(token.string.strip("rbuf\"'").split()) + " ")
            elif token.string.strip():
                code.write(token.string + " ")
            first = token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)
        if min(prose.tell(), code.tell()) >= characters:
            break
    return prose.getvalue()[:characters], code.getvalue()[:characters]


def main(argv: list[str]) -> int:
    """Train ``bert`` or ``gpt2`` twice, compiled and in eager mode; then the picture's path (``losses.png``)."""
    if not argv or argv[0] not in ("bert", "gpt2") or len(argv) > 2:
        print("usage: python -m ds_compiler.demo.finetune {bert,gpt2} [losses.png]", file=sys.stderr)
        return 2
    if missing("torch", "torch", "transformers") or missing("demo", "matplotlib"):
        return 2
    import ds_compiler.torch as backend

    logging.getLogger("transformers").setLevel(logging.ERROR)
    path = Path(argv[1] if len(argv) == 2 else "losses.png")
    with progress() as say:
        compiled = train(argv[0], "ds", say=say)
    save_curve(compiled, path)
    print(f"ds: {compiled}; {path}")
    print(backend.report())
    with progress() as say:
        eager = train(argv[0], None, say=say)
    print(f"eager: {eager}")
    difference = apart(compiled, eager)
    print(f"largest relative difference of the losses: {difference:.1g} (up to {TOLERANCE} is expected)")
    return 0 if difference <= TOLERANCE else 1


def apart(a: History, b: History) -> float:
    """The largest relative difference of two courses of losses."""
    return max(abs(x - y) / abs(y) for x, y in zip(a.losses, b.losses, strict=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
