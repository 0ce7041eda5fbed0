import os
from typing import Any

import pytest

from pareto_amb import search_spaces
from pareto_amb.cli import main
from pareto_amb.config_file import to_yaml
from pareto_amb.credentials import storage_credentials, take_credentials
from pareto_amb.errors import UserError
from pareto_amb.sweep_file import parse_sweep, without_secrets


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test leaves in the environment is gone after it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "before")


@pytest.mark.parametrize("key", ["CANARY", "CAN%2FARY%40x", "CAN/A+RY", "CAN@ARY"])
def test_the_keys_of_an_s3_uri_move_into_the_environment(key: str) -> None:
    uri = take_credentials(f"s3://AKIA:{key}@bucket/runs?region=eu-1&endpoint_override=localhost:9000")
    assert uri == "s3://bucket/runs?region=eu-1&endpoint_override=localhost:9000"
    secret = key.replace("%2F", "/").replace("%40", "@")
    assert storage_credentials(uri) == {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": secret}
    assert "AWS_SESSION_TOKEN" not in os.environ


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/x?region=eu-1",
        "gs://anonymous@bucket/x",
        "hdfs://me@host:8020/x",
        "/data/me@work",
        "runs",
    ],
)
def test_a_uri_without_secrets_stays_as_it_is(uri: str) -> None:
    assert take_credentials(uri) == uri
    assert os.environ["AWS_ACCESS_KEY_ID"] == "before"


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("s3://bucket/x?secret_key=CANARY", "AWS_SECRET_ACCESS_KEY"),
        ("s3://AKIA:CANARY@bucket/x?token=CANARY", "AWS_SECRET_ACCESS_KEY"),
        ("s3://CANARY@bucket/x", "AWS_SECRET_ACCESS_KEY"),
        ("gs://me:CANARY@bucket/x", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://anonymous@bucket/x?credentials=CANARY", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("abfss://:CANARY@account.dfs.core.windows.net/x", "AZURE_CLIENT_SECRET"),
        ("abfs://box@account/x?client_secret=CANARY", "AZURE_CLIENT_SECRET"),
        ("hdfs://me:CANARY@host/x", "kinit"),
        ("ftp://me:CANARY@host/x", "environment"),
    ],
)
def test_other_secrets_are_refused_with_what_to_use_instead(uri: str, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy) as said:
        take_credentials(uri)
    assert "CANARY" not in str(said.value)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "before"


def test_keys_that_expire_are_left_to_the_nodes() -> None:
    assert storage_credentials("s3://bucket/x") == {}
    assert storage_credentials("/data") == {}


def test_a_configuration_is_written_without_the_keys() -> None:
    values: dict[str, Any] = {**search_spaces.load("smoke"), "storage": "s3://AKIA:CANARY@bucket/x"}
    assert "CANARY" not in to_yaml(without_secrets(parse_sweep(values, "smoke")))


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["pareto-amb", *arguments])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr()
    return said.out + said.err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("storage=s3://AKIA:CANARY@bucket/x", "storage: s3://bucket/x"),
        ("storage=gs://me:CANARY@bucket/x", "gs://***@bucket/x"),
        ("storage=[gs://me:CANARY@bucket/x]", "storage: "),
        ("seed=s3://AKIA:CANARY@bucket/x", "seed: "),
        ("seed=" + 60 * "x" + "s3://AKIA:123CANARY4567890@bucket/x", "seed: "),
        ("=s3://AKIA:CANARY@bucket/x", "expected key=value"),
        ("storage: s3://AKIA:CANARY@bucket/x", "expected key=value"),
    ],
)
def test_no_secret_is_printed_of_a_change(
    change: str, expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = printed(capsys, monkeypatch, "sweep", "smoke", "--dry-run", "--set", change)
    assert expected in said
    assert "CANARY" not in said
