import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pareto_amb.environment import describe_environment
from pareto_amb.printable import reason
from pareto_amb.redaction import redact, redact_uri, redact_values, without_paths

CANARY = "CANARY7731"
SCHEMES = st.sampled_from(["http", "https", "s3", "gs", "abfss", "hdfs", "postgresql", "mysql+pymysql"])
LETTERS = st.characters(codec="utf-8", exclude_characters='"', exclude_categories=["Z", "C"])
AROUND = st.text(LETTERS.filter(lambda letter: letter != "?"), max_size=6)
HOSTS = st.sampled_from(
    ["host", "db.example.org:5432", "[::1]:5000", "[fe80::1%25eth0]", "127.0.0.1:5000", ""]
)
PATHS = st.sampled_from(["", "/", "/runs/a", "/a/b.db"])


@st.composite
def passwords(draw: st.DrawFn, separators: bool = True) -> str:
    password = f"{draw(AROUND)}{CANARY}{draw(AROUND)}"
    if not separators:
        password = re.sub("[&;=]", "", password)
    return quote(password, safe="") if draw(st.booleans()) else password


@settings(max_examples=150)
@given(SCHEMES, AROUND, passwords(), HOSTS, PATHS)
def test_no_password_survives_and_the_rest_does(
    scheme: str, user: str, password: str, host: str, path: str
) -> None:
    shown = redact(f"cannot reach {scheme}://u{user}:{password}@{host}{path} at all")
    assert CANARY not in shown
    assert shown == f"cannot reach {scheme}://***@{host}{path} at all"
    assert redact(shown) == shown


@settings(max_examples=150)
@given(
    SCHEMES,
    HOSTS,
    PATHS,
    st.sampled_from(["password", "sig", "driver", "a.b"]),
    passwords(separators=False),
)
def test_no_secret_of_a_query_survives(scheme: str, host: str, path: str, key: str, secret: str) -> None:
    plain = key == "driver" and "@" not in unquote(secret) and ":" not in unquote(secret)
    shown = redact(f"{scheme}://{host}{path}?region=eu-1&{key}={secret}&mode=ro then")
    assert plain or CANARY not in shown
    assert "@" in secret or shown.startswith(f"{scheme}://{host}{path}?region=eu-1&{key}=")
    assert shown.endswith(" then")
    assert redact(shown) == shown


@settings(max_examples=150)
@given(SCHEMES, AROUND, passwords(), st.integers(0, 60))
def test_what_was_cut_off_shows_no_beginning_of_a_password(
    scheme: str, user: str, password: str, length: int
) -> None:
    assume("@" not in password.partition(CANARY)[0])  # what follows an @ reads as a host
    whole = f"{scheme}://{quote(user, safe='')}:x{password}@host/path"
    cut = whole[: whole.index(CANARY) + len(CANARY) + length]
    assert CANARY not in redact(cut)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("(http://u:p@h:1/x), 'b://c:d@e' <f://g:h@i>", "(http://***@h:1/x), 'b://***@e' <f://***@i>"),
        ("redis://u:p@a,redis://v:q@b", "redis://***@a,redis://***@b"),
        ("http://u:p@s@h/x", "http://***@h/x"),
        ("s3://AKIA:ab/cd+e@bucket/x?region=eu", "s3://***@bucket/x?region=eu"),
        ("[https://h/?token=abc]", "[https://h/?token=***]"),
        ("got 's3://b?endpoint_override=http%3A%2F%2Fu%3Ap%40h'", "got 's3://b?endpoint_override=***'"),
        ("http:///u:secret@h", "http:///***@h"),
        ("http:/u:secret@h", "http:/***@h"),
        ("ssh://me@host", "ssh://***@host"),
    ],
)
def test_secrets_are_found_wherever_they_stand(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me@work/mlflow.db",
        "file:///data/me@work",
        "http://host:5000: cannot be used",
        "http://[::1]:5000/x",
        "s3://bucket/x?region=eu&endpoint_override=http://localhost:9000&scheme=http",
        "https://docs.example.org/a.html#part",
        "mail me@example.org: at once",
        "space.sigma_tn: must be above 0 (got -1)",
    ],
)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_malformed_uri_shows_no_password_either() -> None:
    assert redact_uri("me:CANARY@host:5000") == "***@host:5000"
    assert redact_uri("http://me:CAN ARY@host") == "http://***@host"
    assert redact_uri("/home/me@work") == "/home/me@work"


def test_texts_inside_plain_data_are_redacted() -> None:
    values = {"a": ["x", "http://u:p@h", 3], "b": {"c": "s3://k:s@b"}, "d": None}
    assert redact_values(values) == {"a": ["x", "http://***@h", 3], "b": {"c": "s3://***@b"}, "d": None}


def test_a_reason_is_redacted_before_it_is_cut() -> None:
    error = RuntimeError(f"{'x' * 180} http://me:1234567890123456{CANARY}@host")
    assert reason(error) == f"{'x' * 180} http://***@host"


NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=5)
FOLDERS = st.lists(st.builds("{} {}".format, NAMES, NAMES) | NAMES, min_size=1, max_size=4)


@given(st.sampled_from(["/", "~/", "../", "C:/", "file:///", "sqlite:////"]), FOLDERS, NAMES)
def test_of_a_path_only_its_name_is_left(root: str, folders: list[str], name: str) -> None:
    path = f"{root}{'/'.join(folders)}/{name}.zip"
    for text in ("{}", "see '{}': 3 images", "pareto-amb scan --x={} -y 2", "a/b ({}), 8 / 9 images/s"):
        assert without_paths(text.format(path)) == text.format(f"…/{name}.zip")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"C:\Users\me\x.zip", "…/x.zip"),
        (r"\\server\share\x.zip", "…/x.zip"),
        ("--train /a/b /c/d -x", "--train …/b …/d -x"),
        ("<b>x</b><br/>/a/b<br>", "<b>x</b><br/>…/b<br>"),
        ("photos/a.png, and/or 3 images/s", "photos/a.png, and/or 3 images/s"),
        ("https://host/runs/a and s3://bucket/b/c", "https://host/runs/a and s3://bucket/b/c"),
    ],
)
def test_paths_of_a_machine_are_told_from_the_rest(text: str, shown: str) -> None:
    assert without_paths(text) == without_paths(shown) == shown


def test_the_command_is_told_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["sweep", "a b.yaml", f"storage=s3://k:{CANARY}@h/b", f"--notify=https://h.org/T0/{CANARY}"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/pareto-amb", *arguments])
    told = "pareto-amb sweep 'a b.yaml' 'storage=s3://***@h/b' '--notify=https://h.org/***'"
    assert describe_environment()["command"] == told
    for program in ("/x/pytest", "/x/pytest/__main__.py", "", "-c"):
        monkeypatch.setattr("sys.argv", [program, CANARY])
        assert describe_environment()["command"] is None
