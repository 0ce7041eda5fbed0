"""The page of an audit in a real browser, opened from disk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pareto_amb.audit.halves import balanced_halves
from pareto_amb.audit.report import Audit, Scores, audit_scores, judge
from pareto_amb.dashboards.audit import write_page

pytestmark = pytest.mark.slow

ATTACK = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
N = 30


def audited(name: str, memorized: int) -> Audit:
    """16 models that have memorized the first images, of whatever names."""
    member, generator = balanced_halves(16, N, 0), np.random.default_rng(0)
    losses = generator.normal(size=(16, N, 1))
    losses[:, :memorized] -= 6 * member[:, :memorized, None]
    images = (ATTACK, "a_name_without_any_place_to_break_it_" * 5, *(f"image {k}" for k in range(2, N)))
    copies = np.where(np.arange(N) < memorized, member * 1e-2, 0.0)
    return audit_scores(name, Scores(images, (ATTACK, *[""] * (N - 1)), ("loss",), losses, member), copies)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """DDPM, which memorizes 6 images, beside a configuration that memorizes 2."""
    audits = [audited("DDPM", 6), audited(f"Ours {ATTACK}", 2)]
    pixels = np.random.default_rng(1).integers(0, 256, (N, 3, 8, 8), dtype=np.uint8)
    path = tmp_path / "audit.html"
    write_page(audits, path, judge(audits[-1], 0.6), pixels)
    return path


def test_the_page_works_from_disk_whatever_things_are_called(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    assert browser.execute_script("return window.hit || 0") == 0
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => "
        "[p.id, p.querySelectorAll('.trace').length, p.querySelectorAll('svg.main-svg').length])"
    )
    assert [name for name, *_ in drawn] == [
        "comparison-plot", "audit-0-roc", "audit-0-mem", "audit-1-roc", "audit-1-mem",
    ]  # fmt: skip
    assert all(traces > 0 and svg > 0 for _, traces, svg in drawn)
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(("data:", "blob:")) for name in loaded)
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    counts = "return [...document.querySelectorAll('.risk')].map(t => t.tBodies[0].rows.length)"
    assert browser.execute_script(counts) == [6, 2]
    protected = browser.find_element("css selector", ".headline dd").text
    assert protected.startswith("4")
    assert ATTACK in browser.find_element("tag name", "body").text
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True},
    )
    browser.refresh()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
