"""The report in a real browser, opened from disk."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pareto_amb.config import DataConfig
from pareto_amb.dashboards.report import write_report
from pareto_amb.dashboards.scan import write_scan
from pareto_amb.data import load_images
from pareto_amb.declared import Declared
from pareto_amb.scanning import scan_images

pytestmark = pytest.mark.slow

FIGURES = ["any-300", "frontier-300", "sigma-300", "mix-300", "curves-300", "hypervolume-300"]


def severe(browser: Any) -> list[Any]:
    return [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def column(browser: Any, position: int) -> list[str]:
    code = (
        "return [...document.querySelectorAll('.trials tbody tr')].map(r => r.cells[arguments[0]].innerText)"
    )
    return [str(text) for text in browser.execute_script(code, position)]


def test_report_works_from_disk(browser: Any, run_dir: Path) -> None:
    browser.get(write_report(run_dir).as_uri())
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => "
        "[p.id, p.querySelectorAll('svg.main-svg').length, (p.data || []).length, "
        " p.querySelectorAll('.scatterlayer .trace').length])"
    )
    assert [name for name, *_ in drawn] == FIGURES
    assert all(svg > 0 and data > 0 and traces > 0 for _, svg, data, traces in drawn)
    width = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    browser.set_window_size(1400, 1000)
    cut = "return [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert browser.execute_script(cut) == 0
    widths = "window.dispatchEvent(new Event(arguments[0])); return [...plots].map(p => p.layout.width)"
    assert set(browser.execute_script(widths, "beforeprint")) == {870}
    assert set(browser.execute_script(widths, "afterprint")) != {870}
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(("data:", "blob:")) for name in loaded)
    picture = browser.execute_async_script(
        "const done = arguments[0]; Plotly.toImage('frontier-300', {format: 'png'}).then(done, done)"
    )
    assert str(picture).startswith("data:image/png")
    check_linked_selection(browser)
    assert severe(browser) == []


def check_linked_selection(browser: Any) -> None:
    """A point, its row and its samples are marked together, whichever is clicked."""
    marked = (
        "return [[...document.querySelectorAll('tr.selected')].map(r => r.dataset.trial),"
        " document.querySelectorAll('section.selected img').length > 0,"
        " document.querySelector('#any-300').data.flatMap("
        "   t => (t.selectedpoints || []).map(k => t.customdata[k])),"
        " document.querySelector('.chosen').innerText]"
    )
    button = browser.find_element("css selector", "section[data-trial] img")
    trial = button.find_element("xpath", "ancestor::section").get_attribute("data-trial")
    browser.execute_script("document.querySelector(`[data-select='${arguments[0]}']`).click()", trial)
    rows, samples, points, said = browser.execute_script(marked)
    assert (rows, samples, set(points)) == ([trial], True, {trial})
    assert said == f"{trial} is marked: its rowits samples"
    other = "n300-algorithm1-0005"
    browser.execute_script(
        "document.querySelector('#any-300').emit('plotly_click', {points: [{customdata: arguments[0]}]})",
        other,
    )
    rows, samples, points, _ = browser.execute_script(marked)
    assert (rows, samples, set(points)) == ([other], False, {other})
    browser.execute_script(f"select('{other}')")
    assert browser.execute_script(marked) == [[], False, [], ""]


def test_an_answer_that_stops_early_is_marked_where_one_looks_for_it(
    browser: Any, new_run: Callable[..., Path], results: pd.DataFrame, followed: Callable[..., pd.DataFrame]
) -> None:
    run_dir = new_run(followed(results, "n300-algorithm1-0009"), recommend_for=(300,), samples=False)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True},
    )
    browser.get(write_report(run_dir).as_uri())
    legends = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(p => "
        "[p.id, [...p.querySelectorAll('.legendtext')].map(t => t.textContent).join('; ')])"
    )
    marked = {name for name, legend in legends if "stopped after 256,000 images" in legend}
    assert marked == {"any-300", "sigma-300", "mix-300", "curves-300"}
    assert "at equal budget: " in dict(legends)["frontier-300"]
    cut = (
        "return [...document.querySelectorAll('.legendtext')].filter(t => t.getBoundingClientRect().right > "
        "t.closest('.plot').getBoundingClientRect().right).map(t => t.textContent)"
    )
    assert browser.execute_script(cut) == []
    heads = [h.text for h in browser.find_elements("css selector", "h3")]
    assert heads.index("What the gain is made of") < heads.index("Measured again on 50,000 samples")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
    assert severe(browser) == []


def test_panels_of_three_objectives_are_linked(
    browser: Any,
    new_run: Callable[..., Path],
    make_config: Callable[..., Any],
    three: tuple[pd.DataFrame, Declared],
) -> None:
    rows, declared = three
    search = {"methods": ["algorithm1", "smoothed"], "objectives": list(declared.objectives)}
    space = make_config().space.model_dump() | {"temperature": {"low": 0.5, "high": 5.0}}
    config = make_config(search=search, space=space)
    page = write_report(new_run(rows, config, recommend_for=(300,), declared=declared)).as_uri()
    browser.get(page)
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    at = browser.execute_script(
        "const plot = document.querySelector('#any-300'); plot.scrollIntoView();"
        "const trace = plot.data.find(t => t.customdata && t.name === 'Algorithm 1');"
        "const {left, top} = plot.getBoundingClientRect();"
        "return [left + pixels(plot, 'x', trace.x[3]), top + pixels(plot, 'y', trace.y[3])]"
    )
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.support.ui import WebDriverWait

    action = ActionBuilder(browser)
    action.pointer_action.move_to_location(*map(int, at))
    action.perform()
    rings = "return [...document.querySelectorAll('#any-300 .pointed')].map(r => parseInt(r.style.left))"
    left = WebDriverWait(browser, 10).until(lambda b: b.execute_script(rings))
    domains = "return ['', 2, 3].map(k => document.querySelector('#any-300').layout['xaxis' + k].domain)"
    assert (len(left), sorted(left)) == (3, left), "one in each panel"
    assert all(low < high < 0.9 for low, high in browser.execute_script(domains)[:2])
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True},
    )
    browser.get(page)
    assert browser.execute_script(domains) == [[0, 1]] * 3, "below each other"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
    assert severe(browser) == []


def test_the_page_of_a_scan_works_from_disk(browser: Any, tmp_path: Path) -> None:
    digits = load_images(DataConfig(source="digits", resolution=8, channels=1))
    page = tmp_path / "scan.html"
    write_scan(scan_images(digits, [10, 40]), page)
    browser.get(page.as_uri())
    lines = (
        "return ['effective', 'merging', 'leakage'].map(name => "
        "document.querySelectorAll(`#${name} .scatterlayer .trace`).length)"
    )
    assert browser.execute_script(lines) == [2, 6, 3]
    heights = browser.execute_script(
        "return [...document.querySelectorAll('#effective .ytick text')]"
        ".map(t => t.getBoundingClientRect()).map(box => [box.top, box.bottom])"
    )
    assert len(heights) > 3
    above = sorted(heights, reverse=True)
    assert all(upper[1] <= lower[0] for lower, upper in pairwise(above))
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(("data:", "blob:")) for name in loaded)
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True},
    )
    browser.refresh()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
    assert severe(browser) == []


def test_table_sorts_by_click(browser: Any, run_dir: Path) -> None:
    browser.get(write_report(run_dir).as_uri())
    headings = [h.text for h in browser.find_elements("css selector", ".trials th")]
    position = headings.index("FID")
    button = browser.find_elements("css selector", ".trials th button")[position]
    browser.execute_script("arguments[0].click()", button)
    rising = column(browser, position)
    values = [float(text) for text in rising[:-1]]
    assert values == sorted(values)
    assert rising[-1] == "–"  # the failed trial, last whichever way
    browser.execute_script("arguments[0].click()", button)
    falling = column(browser, position)
    assert [float(text) for text in falling[:-1]] == values[::-1]
    assert falling[-1] == "–"
    assert severe(browser) == []


def test_narrow_screen_and_hostile_names(
    browser: Any, new_run: Callable[..., Path], results: pd.DataFrame
) -> None:
    attack = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
    nasty = results.assign(error=results.error.where(results.error == "", attack))
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": True},
    )
    browser.get(write_report(new_run(nasty, recommend_for=(300,), samples=False)).as_uri())
    assert browser.execute_script("return window.hit || 0") == 0
    assert browser.execute_script("return document.querySelectorAll('.plot svg.main-svg').length") > 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
    assert severe(browser) == []
