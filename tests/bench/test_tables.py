"""The tables of bench/RESULTS.md and README.md, from made-up results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import run as runner
from bench import tables


def result(ours: float, theirs: float, relative: float | None = 1e-6, passed: bool = True) -> dict[str, Any]:
    timing = {"p10": ours, "p90": ours, "best": ours}
    ratios = {"ratio": ours / theirs, "ratio_p10": 0.1, "ratio_p90": 9.0}
    cost = {"load_seconds": 0.5, "first_call_seconds": 0.1, "peak_bytes": 3 << 20, "base_bytes": 1 << 20}
    return {
        "date": "2025-01-02",
        "check": {"passed": passed, "cases": [{"name": "a", "outputs": [{"relative": relative}]}]},
        "bench": {
            "timings": [
                {"engine": "ds_compiler", "median": ours, **timing, "ratio": None},
                {"engine": "onnxruntime", "median": theirs, **timing, **ratios},
            ],
            "costs": {"ds_compiler cold": cost, "ds_compiler": cost, "onnxruntime": cost},
            "peak_gflops_one_core": 90.0,
            "machine": "a CPU",
            "versions": {"onnxruntime": "1.2"},
        },
    }


def entry(name: str, *runs: dict[str, Any]) -> dict[str, Any]:
    counted = {str(count): run for count, run in enumerate(runs, 1)}
    return {"model": name, "origin": "published", "dims": {"batch": 1}, **counted}


def test_the_page_has_a_section_for_each_number_of_threads() -> None:
    page = tables.results_page([entry("fast", result(1, 4), result(1, 4)), entry("slow", result(2, 1))])
    assert "## 1 thread\n" in page and "## 2 threads\n" in page
    assert "over 2 of 2 models: **0.71**" in page and "slow (2.00)" in page
    assert "| fast | batch=1 | 1.00 s | 4.00 s | 0.25 (0.10 to 9.00) | 500 ms" in page
    assert "2025-01-02, a CPU, 90 GFLOP/s" in page


def test_failures_are_rows() -> None:
    failed = {"date": "2025-01-02", "check": {"error": "no a|b"}, "bench": {"error": "took more than 9 s"}}
    page = tables.results_page([entry("good", result(1, 2)), entry("bad", failed)])
    assert "failed: took more than 9 s" in page and "a\\|b" in page and "over 1 of 2 models" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {12}


def test_wrong_results_stand_out() -> None:
    assert tables.error_text(result(1, 1, 1e-6)) == "1e-06"
    assert tables.error_text(result(1, 1, 0.5, passed=False)) == "**0.5**"
    assert tables.error_text(result(1, 1, None, passed=False)) == "**inf**"


def test_the_readme_table_ends_in_the_geometric_mean() -> None:
    table = tables.readme_table([entry("a", result(1, 2), result(2, 1)), entry("b", result(2, 1))])
    assert "| a | 0.50 | 2.00 |" in table and "| b | 2.00 | - |" in table
    assert table.endswith("| **geometric mean** | **1.00** | **2.00** |")
    assert "make bench" in tables.readme_table([])


def test_the_readme_changes_between_its_marks_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "bench").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text(json.dumps(entry("a", result(1, 2))))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.write(tmp_path / "results")
    text = readme.read_text()
    assert text.startswith(f"before\n{tables.BEGIN}\n| our time") and text.endswith(f"{tables.END}\nafter\n")
    assert "old" not in text and "| a |" in (tmp_path / "bench" / "RESULTS.md").read_text()


def test_a_command_that_fails_or_hangs_is_an_error() -> None:
    assert "does not exist" in runner.dsc(["run", "nothing.onnx"], 60)["error"]
    assert "took more than 0 s" in runner.dsc(["--help"], 0.01)["error"]


def test_products_have_a_table_of_their_own() -> None:
    shape = {"shape": "8x8x8", "gflops": 81.25, "share": 0.853, "numpy_share": 0.8, "speedup": 1.06, "compile_ms": 35.4}
    assert "| 8x8x8 | 81.2 | 85% | 80% | 1.06 | 35 ms |" in tables.products_section([shape])
