"""What `audit --scores` reads and refuses, and the files that it writes."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pareto_amb.audit.influence import influence
from pareto_amb.audit.membership import likelihood_ratio
from pareto_amb.audit.report import audit_scores, compare, judge
from pareto_amb.audit.roc import auc
from pareto_amb.auditing import read_scores, to_csv, to_json
from pareto_amb.cli import main
from pareto_amb.dashboards.audit import render
from pareto_amb.errors import UserError

Draw = Callable[..., tuple[NDArray[np.float64], NDArray[np.bool_]]]
Call = Callable[..., tuple[int, str, str]]
ATTACK = "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"


def table(values: NDArray[np.float64], member: NDArray[np.bool_]) -> pd.DataFrame:
    m, n, d = values.shape
    frame = pd.DataFrame(
        {
            "model": [f"model {k}" for k in range(m) for _ in range(n)],
            "image": [f"image {i}" for _ in range(m) for i in range(n)],
            "member": member.ravel().astype(int),
        }
    )
    for k in range(d):
        frame[f"loss {k}"] = values[:, :, k].ravel()
    return frame


@pytest.fixture
def frame(scores_of: Draw) -> pd.DataFrame:
    return table(*scores_of(3.0, 8, 20, 2))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["pareto-amb", "audit", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(str(end.value.code or 0)), *capsys.readouterr()

    return called


def test_rows_in_any_order_csv_or_parquet_give_the_same_arrays(
    frame: pd.DataFrame, scores_of: Draw, tmp_path: Path
) -> None:
    values, member = scores_of(3.0, 8, 20, 2)
    frame["file"] = "photos/" + frame.image + ".png"
    shuffled = frame.sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "a.csv", index=False)
    shuffled.to_parquet(tmp_path / "a.parquet", index=False)
    for name in ("a.csv", "a.parquet"):
        found = read_scores(tmp_path / name)
        assert found.names == ("loss 0", "loss 1")
        models = list(dict.fromkeys(shuffled.model))
        rows = [int(model.split()[1]) for model in models]
        images = [int(image.split()[1]) for image in found.images]
        assert found.values == pytest.approx(values[rows][:, images])
        assert (found.member == member[rows][:, images]).all()
        assert found.files == tuple(f"photos/{image}.png" for image in found.images)


def test_names_may_be_numbers(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame["model"] = frame.model.str.slice(6).astype(int)
    frame["image"] = frame.image.str.slice(6).astype(int)
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert read_scores(tmp_path / "a.parquet").images == read_scores(tmp_path / "a.csv").images
    assert read_scores(tmp_path / "a.csv").images[:3] == ("0", "1", "2")


def changed(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.loc[row, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f[f.model != "model 7"], "7 models; at least 8"),
        (lambda f: f[f.image != "image 7"], "19 images; at least 20"),
        (lambda f: f.drop(columns="member"), "column 'member' is missing"),
        (lambda f: f.drop(columns=["loss 0", "loss 1"]), "0 columns of scores"),
        (lambda f: f.assign(**{f"s{k}": 0.0 for k in range(31)}), "33 columns of scores"),
        (lambda f: f[:0], "has no rows"),
        (lambda f: f[1:], "model 'model 0' lacks image 'image 0'"),
        (lambda f: f[:-1], "model 'model 7' lacks image 'image 19'"),
        (lambda f: pd.concat([f, f[3:4]]), "model 'model 0' has image 'image 3' twice"),
        (changed("loss 1", 4, float("nan")), "row 5 has no finite number as 'loss 1'"),
        (changed("loss 1", 4, float("inf")), "row 5 has no finite number as 'loss 1'"),
        (changed("loss 0", 4, "much"), "column 'loss 0' holds something else than numbers"),
        (changed("member", 2, 2), "row 3 has 2 as member; it is 1 or 0"),
        (changed("member", 2, None), "row 3 has no finite number as 'member'"),
        (changed("model", 0, None), "row 1 names no model"),
        (changed("image", 0, "x" * 1001), "row 1: image has more than 1,000 characters"),
        (lambda f: f.assign(member=f.member * (f.image != "image 6")), "image 'image 6' was trained on by 0"),
        (lambda f: f.assign(member=f.member | (f.image == "image 6")), "image 'image 6' was left out by 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_clear_line(
    frame: pd.DataFrame,
    tmp_path: Path,
    call: Call,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    words: str,
) -> None:
    change(frame).to_csv(tmp_path / "a.csv", index=False)
    code, _, err = call("--scores", "a.csv", "--output", "out")
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("pareto-amb: error: a.csv: not a table of scores: ")
    assert words in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "a.csv"),
        ("a.csv", b"model,image,member,loss\n1,2\n", "Expected 4 columns"),
        ("a.csv", b"model,image,member,loss,loss\n1,2,1,1,1\n", "a column is there twice"),
        ("a.csv", b"\xff\xfe\x00model", "a.csv"),
        ("a.parquet", b"PAR1 no", "a.parquet"),
        ("a.json", b"{}", "neither in .csv nor in .parquet"),
    ],
)
def test_what_is_no_table_is_one_clear_line(
    tmp_path: Path, call: Call, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    code, _, err = call("--scores", name)
    assert (code, err.count("\n")) == (2, 1), err
    assert words in err


def test_a_missing_file_and_a_limit_that_is_none_are_refused(tmp_path: Path, call: Call) -> None:
    assert call("--scores", "nowhere.csv")[0] == 2
    code, _, err = call("--scores", "nowhere.csv", "--fail-above-auc", "0.4")
    assert code == 2
    assert "--fail-above-auc 0.4" in err


def test_a_huge_table_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame: pd.DataFrame
) -> None:
    frame.to_csv(tmp_path / "a.csv", index=False)
    for limit in ("MAX_VALUES", "MAX_ROWS", "MAX_CSV_BYTES"):
        with monkeypatch.context() as patched:
            patched.setattr(f"pareto_amb.auditing.{limit}", 100)
            with pytest.raises(UserError, match=r"100 (are|bytes)"):
                read_scores(tmp_path / "a.csv")


@pytest.mark.parametrize(("gain", "limit", "code"), [(3.0, 0.6, 1), (0.0, 0.8, 0), (0.0, 0.51, 3)])
def test_the_gate_exits_as_that_of_evaluate(
    scores_of: Draw, tmp_path: Path, call: Call, gain: float, limit: float, code: int
) -> None:
    table(*scores_of(gain, 16, 30)).to_csv(tmp_path / "a.csv", index=False)
    found, out, _ = call("--scores", "a.csv", "--output", "out", "--fail-above-auc", str(limit))
    assert found == code
    words = {0: "passed", 1: "failed", 3: "inconclusive"}[code]
    assert out.splitlines()[-1].startswith(f"{words}: ")
    assert json.loads((tmp_path / "out/audit.json").read_text())["gate"]["outcome"][:4] == words[:4]


def test_the_files_say_what_the_functions_do(frame: pd.DataFrame, tmp_path: Path, call: Call) -> None:
    frame.assign(file="/home/jane/" + frame.image + ".png").to_csv(tmp_path / "a.csv", index=False)
    assert call("--scores", "a.csv", "--output", "out", "--redact")[0] == 0
    scores = read_scores(tmp_path / "a.csv")
    told = json.loads((tmp_path / "out/audit.json").read_text())
    assert "lower bound" in told["lower_bound"]
    assert "no guarantee" in told["lower_bound"]
    [audit] = told["audits"]
    expected = auc(likelihood_ratio(scores.values, scores.member), scores.member)
    assert audit["attacks"]["likelihood_ratio"]["auc"] == vars(expected)
    assert [rate["fpr"] for rate in audit["attacks"]["out_only"]["tpr_at_fpr"]] == [0.001, 0.01]
    rows = pd.read_csv(tmp_path / "out/audit.csv")
    assert list(rows.image) == list(scores.images)
    single = influence(-scores.values[:, :, 1], scores.member)
    assert rows["mem_loss 1"].to_numpy() == pytest.approx(single.mem, rel=1e-4)
    assert rows["standard_error_loss 1"].to_numpy() == pytest.approx(single.standard_error, rel=1e-4)
    assert rows.significant.sum() == audit["mem"]["significant"] == len(audit["at_risk"])
    page = (tmp_path / "out/audit.html").read_text()
    assert all(name in page for name in audit["at_risk"])
    assert audit["verdict"] in page
    assert "pareto-amb audit --scores a.csv --output out --redact" in page
    for name in ("audit.json", "audit.csv"):
        assert sha256((tmp_path / "out" / name).read_bytes()).hexdigest() in page
    assert "An image that is not named is not cleared by that." in page
    assert "jane" not in page + (tmp_path / "out/audit.csv").read_text()


def test_hostile_names_run_nowhere(frame: pd.DataFrame, tmp_path: Path) -> None:
    names = {"image 0": ATTACK, "image 1": "=HYPERLINK(1)", "image 2": "a\u202e\nb", "image 3": "@x"}
    frame["image"] = frame.image.replace(names)
    frame["file"] = ATTACK
    frame = frame.rename(columns={"loss 0": ATTACK})
    frame.to_csv(tmp_path / "a.csv", index=False)
    audit = audit_scores(ATTACK, read_scores(tmp_path / "a.csv"))
    assert audit.at_risk
    page = render([audit], judge(audit, 0.6))
    assert "<script>window.hit" not in page
    assert "<img src=x" not in page
    rows = list(csv.reader(io.StringIO(to_csv([audit]))))[1:]
    assert {row[1] for row in rows} >= {"'=HYPERLINK(1)", "a\\u202e\\nb", "'@x"}
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row[:3])
    assert "\u202e" not in json.dumps(to_json([audit]), ensure_ascii=False)


def test_no_name_is_given_where_chance_explains_all(scores_of: Draw, tmp_path: Path) -> None:
    table(*scores_of(0.0, 16, 40)).to_csv(tmp_path / "a.csv", index=False)
    audit = audit_scores("a", read_scores(tmp_path / "a.csv"))
    assert audit.at_risk == []
    assert "That names nobody" in render([audit])


def test_too_few_models_to_name_anybody_are_told_so(scores_of: Draw, tmp_path: Path) -> None:
    table(*scores_of(9.0, 8, 100)).to_csv(tmp_path / "a.csv", index=False)
    told = to_json([audit_scores("a", read_scores(tmp_path / "a.csv"))])["audits"][0]
    assert any("train more models" in note for note in told["notes"])


def test_turned_scores_are_told_so(scores_of: Draw, tmp_path: Path) -> None:
    values, member = scores_of(2.0, 16, 60)
    table(-values, member).to_csv(tmp_path / "a.csv", index=False)
    told = to_json([audit_scores("a", read_scores(tmp_path / "a.csv"))])["audits"][0]
    assert any("turn the sign" in note for note in told["notes"])


def test_of_two_kinds_of_training_the_page_says_who_is_protected(scores_of: Draw, tmp_path: Path) -> None:
    values, member = scores_of(4.0, 16, 40)
    kept = values.copy()
    kept[:, :10] += 4.0 * member[:, :10, None]  # trained on without a trace
    audits = []
    for name, losses in (("DDPM", values), ("Ours", kept)):
        table(losses, member).to_csv(tmp_path / "a.csv", index=False)
        audits.append(audit_scores(name, read_scores(tmp_path / "a.csv"), copies=member * 1e-3))
    told = to_json(audits)
    assert set(told["comparison"]["still_at_risk"]) == {f"image {i}" for i in range(40)}  # all were copied
    audits = [replace(audit, copies=None) for audit in audits]
    compared = compare(*audits)
    assert set(compared["protected"]) >= set(range(9))
    assert set(compared["still_at_risk"]) >= set(range(11, 40))
    images = np.zeros((40, 1, 8, 8), dtype=np.uint8)
    page = render(audits, None, images)
    assert "Who is protected" in page
    assert page.count('<img src="data:image/png') >= len(audits[0].at_risk)
    assert "Who is protected" not in render(audits[:1])
    rows = pd.read_csv(io.StringIO(to_csv(audits)))
    assert list(rows["audit"].unique()) == ["DDPM", "Ours"]


def test_it_needs_no_torch() -> None:
    code = (
        "import sys, pareto_amb.auditing, pareto_amb.dashboards.audit, pareto_amb.audit.report\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
