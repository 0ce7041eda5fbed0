"""The page that follows a run: what it reads, whom it answers, and the page itself in a real browser."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from pareto_amb.dashboards import live
from pareto_amb.dashboards.live import make_app
from pareto_amb.dashboards.live_parts import events, head, workers
from pareto_amb.dashboards.live_run import SILENT_SECONDS, Choice, LiveRun, cost_so_far
from pareto_amb.dashboards.live_server import listen, make_page
from pareto_amb.results.live import Event, Heartbeats

ANSWER, OTHER = "n300-algorithm1-0009", "n300-algorithm1-0005"
BEAT = {
    "trial_id": OTHER, "worker": "node-7 GPU 1", "doing": "training", "rung": 2, "rungs": 4, "step": 300,
    "steps": 2000, "images_seen": 76_800, "images": 512_000, "images_per_second": 1234.5, "loss": 0.25,
    "seconds_left": 352.0,
}  # fmt: skip
BEATS: dict[str, Any] = {"at": 0.0, "done": 3, "total": 9, "seconds_left": 185.0, "trials": [BEAT]}
ATTACK = "<img src=x onerror='window.hit = 1'>"


@pytest.fixture
def few(results: pd.DataFrame) -> pd.DataFrame:
    """A results table of five trials and DDPM."""
    kept = [f"n300-algorithm1-{k:04}" for k in (3, 5, 7, 9, 15)]
    return results[results.trial_id.isin(kept) | (results.method == "ddpm")].reset_index(drop=True)


def no_table_yet(run_dir: Path) -> Path:
    """Put the table away, where `growing` finds it."""
    (run_dir / "results.parquet").rename(run_dir / "whole")
    return run_dir


def grow(run_dir: Path) -> None:
    shutil.copy(run_dir / "whole", run_dir / "new")
    (run_dir / "new").rename(run_dir / "results.parquet")


# --- reading --------------------------------------------------------------------------------------


def test_a_table_that_is_not_there_yet_or_half_written_leaves_what_was_read(
    new_run: Callable[..., Path], few: pd.DataFrame
) -> None:
    run_dir = no_table_yet(new_run(few))
    run = LiveRun(run_dir)
    run._rest = lambda started: None  # type: ignore[method-assign]
    assert (run.now().run, run.now().problem) == (None, "no results yet")
    assert run.now().version == run.now().version
    grow(run_dir)
    first = run.now()
    assert first.run is not None
    assert len(first.run.frame) == len(few)
    content = (run_dir / "results.parquet").read_bytes()
    (run_dir / "results.parquet").write_bytes(content[: len(content) // 2])
    second = run.now()
    assert second.run is first.run
    assert "results.parquet: not a results table" in second.problem
    (run_dir / "results.parquet").unlink()
    assert run.now().run is first.run
    grow(run_dir)
    assert run.now().problem == ""
    before = sorted(path.name for path in run_dir.iterdir())
    run.heartbeats(), run.events()
    assert sorted(path.name for path in run_dir.iterdir()) == before


def test_a_run_is_left_alone_for_longer_than_it_took_to_read(
    new_run: Callable[..., Path], few: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("pareto_amb.dashboards.live_run.time.monotonic", lambda: clock[0])
    run_dir = no_table_yet(new_run(few))
    run, read = LiveRun(run_dir), LiveRun._read

    def slowly(self: LiveRun) -> Any:
        clock[0] += 2.0
        return read(self)

    monkeypatch.setattr(LiveRun, "_read", slowly)
    assert run.now().run is None
    grow(run_dir)
    clock[0] += 9.0
    assert run.now().run is None
    clock[0] += 2.0
    assert run.now().run is not None


def test_a_policy_moves_the_answer_and_what_none_serves_says_why(
    new_run: Callable[..., Path], few: pd.DataFrame
) -> None:
    run = LiveRun(new_run(few)).now().run
    assert run is not None
    knee, _ = Choice(300, "knee", None, "any").recommendation(run)
    most, _ = Choice(300, "max-memorization", 0.9, "any").recommendation(run)
    assert knee is not None
    assert most is not None
    assert knee.trial_id != most.trial_id
    found, why = Choice(300, "max-memorization", 0.0, "any").recommendation(run)
    assert found is None
    assert why.startswith("No recommendation yet: no trial has memorization at most 0")


def test_cost_counts_every_training_once(few: pd.DataFrame) -> None:
    trainings, training, measuring = cost_so_far(few)
    last = few.drop_duplicates("trial_id", keep="last")
    assert trainings == pytest.approx(last.budget.sum())
    assert training == pytest.approx(last.train_seconds.fillna(0).sum())
    assert measuring == pytest.approx(few.eval_seconds.fillna(0).sum())
    branched = few.assign(branched_at=(few.images_seen * (few.trial_id == OTHER)).astype(int) // 4)
    assert cost_so_far(branched)[0] == pytest.approx(trainings - 0.25)


def test_a_sweep_that_is_silent_is_taken_for_killed() -> None:
    beats = Heartbeats.model_validate(BEATS | {"at": time.time()})
    assert "3 of 9 trials have ended or paused, about 3m05s left" in str(head(None, beats))
    assert "node-7 GPU 1" in str(workers(beats))
    assert "300/2,000" in str(workers(beats))
    silent = beats.model_copy(update={"at": time.time() - SILENT_SECONDS - 1})
    assert "Nothing was heard of the sweep" in str(head(None, silent))
    assert "node-7" not in str(workers(silent))
    assert "No sweep is running" in str(head(None, None))
    assert "No events" in str(events([]))


# --- answering ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8050", 200), ("localhost:9000", 200), ("[::1]:8050", 200), ("localhost", 200),
     ("evil.example:8050", 403), ("127.0.0.1.evil.example", 403), ("evil.example", 403)],
)  # fmt: skip
def test_only_who_asks_for_this_machine_is_answered(
    new_run: Callable[..., Path], few: pd.DataFrame, host: str, status: int
) -> None:
    app = make_app(no_table_yet(new_run(few))).server.test_client()
    found = app.get("/", headers={"Host": host})
    assert found.status_code == status
    assert "default-src 'none'" in found.headers["Content-Security-Policy"]


def test_the_table_as_csv_is_fit_for_a_spreadsheet(new_run: Callable[..., Path], few: pd.DataFrame) -> None:
    hostile = few.assign(error=few.error.where(few.error == "", "=HYPERLINK(1)"))
    app = make_app(new_run(hostile)).server.test_client()
    found = app.get("/results.csv", headers={"Host": "localhost"})
    assert found.headers["Content-Disposition"] == 'attachment; filename="run.csv"'
    lines = found.text.splitlines()
    assert len(lines) == len(few) + 1
    assert "'=HYPERLINK(1)" in found.text
    assert ",=HYPERLINK" not in found.text


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], str]]:
    """Serves a run directory on loopback; the page asks every second."""
    monkeypatch.setattr(live, "REFRESH_SECONDS", 1)
    with listen(0) as listening:
        servers = []

        def start(run_dir: Path) -> str:
            servers.append(make_page(run_dir, listening))
            threading.Thread(target=servers[0].serve_forever, daemon=True).start()
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield start
        for server in servers:
            server.shutdown()


@pytest.mark.slow
def test_a_page_follows_a_sweep_from_before_its_first_result(
    browser: Any,
    serve: Callable[[Path], str],
    new_run: Callable[..., Path],
    make_samples: Callable[..., bytes],
    few: pd.DataFrame,
) -> None:
    few = few.assign(error=few.error.where(few.error == "", ATTACK))
    run_dir = no_table_yet(new_run(few))
    for rung in (2, 3):
        path = run_dir / "samples" / ANSWER / f"rung-{rung}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_samples(rung, 0.3))
    browser.get(serve(run_dir))
    wait = WebDriverWait(browser, 60)

    def shows(place: str, text: str) -> None:
        wait.until(lambda b: text in b.find_element("id", place).text, f"{text!r} in {place}")

    shows("answer", "No trial has been measured yet.")
    event = Event(at=time.time(), kind="paused", trial_id=OTHER, words=f"paused {ATTACK}")
    (run_dir / "events.jsonl").write_text(event.model_dump_json() + "\n")
    (run_dir / "heartbeats.json").write_text(json.dumps(BEATS | {"at": time.time()}))
    grow(run_dir)
    shows("workers", "1,234")
    shows("events", f"paused {ATTACK}")
    shows("head", "8 trainings: ")
    shows("answer", "Memorization")
    plot = "#any-300 .js-plotly-plot .main-svg"
    wait.until(lambda b: b.find_elements("css selector", plot))

    point = (
        "const plot = document.querySelector('#any-300 .js-plotly-plot');"
        "const at = plot.data.findIndex(t => (t.customdata || []).includes(arguments[0]));"
        "const k = plot.data[at].customdata.indexOf(arguments[0]);"
        "plot.emit('plotly_click', {points: [{curveNumber: at, pointNumber: k, x: 0, y: 0,"
        " customdata: plot.data[at].customdata[k], data: plot.data[at], fullData: plot._fullData[at]}]})"
    )

    def opened(b: Any) -> bool:
        b.execute_script(point, ANSWER)  # Dash listens a moment after the figure is there
        return "Samples at rung 3" in b.find_element("id", "opened").text

    wait.until(opened)
    shows("opened", "σ_tn")
    images = browser.find_elements("css selector", "#opened img")
    assert images
    assert all(len(image.get_attribute("alt")) > 20 for image in images)

    before = browser.find_element("id", "answer").text
    focused = "return document.activeElement.value"
    browser.find_element("id", "policy").send_keys(Keys.ENTER)
    wait.until(lambda b: b.execute_script(focused) == "match-ddpm")
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    wait.until(lambda b: b.execute_script(focused) == "knee")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    wait.until(lambda b: b.find_element("id", "answer").text != before)
    shows("answer", "policy knee")

    browser.find_element("id", "theme").send_keys(Keys.ENTER)
    dark = "return getComputedStyle(document.body).backgroundColor"
    wait.until(lambda b: b.execute_script(dark) == "rgb(15, 16, 17)")
    turned = "return getComputedStyle(document.querySelector('.js-plotly-plot')).filter"
    assert "invert" in browser.execute_script(turned)

    assert browser.execute_script("return window.hit || 0") == 0
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(("data:", "blob:", "http://127.0.0.1:")) for name in loaded)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
