"""The page of an evaluation in a real browser, opened from disk."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pareto_amb.dashboards.evaluation import write_page
from pareto_amb.evaluation.image_sets import evaluate_image_sets

pytestmark = pytest.mark.slow

ATTACK = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"


def pack(path: Path, images: np.ndarray, prefix: str) -> None:
    """A zip, where a name may hold what no file system lets through."""
    with zipfile.ZipFile(path, "a") as archive:
        for number, image in enumerate(images):
            content = io.BytesIO()
            Image.fromarray(image).save(content, "PNG")
            archive.writestr(f"{prefix}{number:03}.png", content.getvalue())


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page on 60 generated images, half of them copies, with names that attack."""
    pixels = np.random.default_rng(0).integers(0, 256, (150, 8, 300, 3), dtype=np.uint8)
    generated, train, heldout = (tmp_path / f"{name}.zip" for name in ("gen", "train", "heldout"))
    pack(generated, pixels[:30], ATTACK)
    pack(generated, pixels[30:60], "a very long name without any place to break it ".replace(" ", "_") * 4)
    pack(train, pixels[:30], ATTACK)
    pack(heldout, pixels[60:], "h")
    report = evaluate_image_sets(generated, train, heldout, encoders="pixels")
    return write_page(report, tmp_path / "evaluation.html")


def severe(browser: Any) -> list[Any]:
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_page_works_from_disk_whatever_the_files_are_called(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    assert browser.execute_script("return window.hit || 0") == 0
    assert browser.execute_script("return document.querySelectorAll('.plot svg.main-svg').length") > 0
    drawn = "return document.querySelector('.plot').data"
    names = [trace["name"] for trace in browser.execute_script(drawn)]
    assert names[:2] == ["held-out images, never seen by the model", "generated images"]
    assert names[2].startswith("threshold 0.")
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(("data:", "blob:")) for name in loaded)
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    widest = "return Math.max(...[...document.images].map(i => i.naturalWidth))"
    assert browser.execute_script(widest) == 256  # shrunk from 300
    text = browser.find_element("tag name", "body").text
    assert "Copies more than is normal" in text
    assert ATTACK in text
    assert severe(browser) == []


def test_the_page_fits_a_narrow_screen(browser: Any, page: Path) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True},
    )
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
    assert severe(browser) == []
