"""The page of `sweep --watch`, a process of its own."""

import io
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
from rich.console import Console

from pareto_amb.results.run_directory import RunDirectory
from pareto_amb.running.watching import watched


@pytest.mark.slow
def test_the_page_of_a_sweep_is_there_while_it_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    output = io.StringIO()
    with watched(RunDirectory(tmp_path), Console(file=output, width=200)):
        url = output.getvalue().removeprefix("watch it at ").strip()
        with urllib.request.urlopen(f"{url}/alive", timeout=100) as answer:
            assert answer.status == 200
    with pytest.raises(URLError):
        urllib.request.urlopen(f"{url}/alive", timeout=10)
    assert list(tmp_path.iterdir()) == []
