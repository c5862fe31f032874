"""The picture of the IR page in the README: ``python -m docs.make_picture`` (needs ``pip install PyQt6-WebEngine``).

Renders the page of a published model in a browser without a screen, with a value of the last step selected.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from PIL import Image

from bench.models import MODELS
from ds_compiler import passes
from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir.html import render
from ds_compiler.ir.printer import print_module

PICTURE = Path(__file__).with_name("ir-page.png")
MODEL = "ppocr_cls"
SIZE = (1500, 860)
SELECT = """
(() => {
  const row = [...document.querySelectorAll(".row.added")].find((r) => r.textContent.includes("fusion")
    && [...r.querySelectorAll(".value")].length > 3);
  row.querySelector(".value:not(.d)").click();
  row.scrollIntoView({ block: "center" });
  document.getElementById("code").scrollLeft = 0;
})()
"""


def page() -> str:
    """The page of the model's passes."""
    module = import_model(MODELS[MODEL].path())
    dumps = [("import", print_module(module))]
    passes.run(module, "default", dump=lambda name, changed: dumps.append((name, print_module(changed))))
    return render(dumps, title=MODELS[MODEL].path().name)


def take(html: Path, picture: Path) -> None:
    """Save what a browser shows of `html`."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("QTWEBENGINE_CHROMIUM_FLAGS", "--no-sandbox --disable-gpu")
    from PyQt6.QtCore import QTimer, QUrl
    from PyQt6.QtWebEngineWidgets import QWebEngineView
    from PyQt6.QtWidgets import QApplication

    application = QApplication(sys.argv[:1])
    view = QWebEngineView()
    view.resize(*SIZE)

    def save() -> None:
        view.grab().save(str(picture))
        application.quit()

    def loaded(_: bool) -> None:
        view.page().runJavaScript(SELECT)
        QTimer.singleShot(1500, save)

    view.loadFinished.connect(loaded)
    view.load(QUrl.fromLocalFile(str(html)))
    view.show()
    application.exec()


def main() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        html = Path(folder) / "page.html"
        html.write_text(page(), encoding="utf-8")
        take(html, PICTURE)
    Image.open(PICTURE).convert("RGB").quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
