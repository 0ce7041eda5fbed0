"""The scripts that a scheduler starts: what they call, and that Ray ends with the job."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"

SRUN = """\
#!/usr/bin/env bash
echo "srun $*" >> "$CALLS"
while [[ $1 == --* ]]; do shift; done
[[ $1 != hostname ]] || { echo "127.0.0.1 10.0.0.9"; exit; }
exec "$@"
"""
"""Slurm's on an allocation of this one node."""

SWEEP = """\
import os, signal, sys, time
from pathlib import Path
import ray
def stop(*_):
    Path(os.environ["CALLS"]).with_name("stopped").touch()
    os._exit(143)
ray.init(address=sys.argv[sys.argv.index("--address") + 1], log_to_driver=False)
signal.signal(signal.SIGTERM, stop)
Path(os.environ["CALLS"]).with_name("joined").write_text(f"{ray.cluster_resources()['CPU']:g} {sys.argv[1:]}")
while True:
    time.sleep(0.1)
"""
"""In the place of pareto-amb: joins the cluster that it is given, and waits to be stopped."""


def write_command(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def environment(folder: Path, **more: str) -> dict[str, str]:
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    known = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    return known | {"PATH": path, "CALLS": str(folder / "calls"), **more}


def test_a_sweep_begins_and_is_then_gone_on_with(tmp_path: Path) -> None:
    write_command(tmp_path, "pareto-amb", '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')

    def call(**more: str) -> list[str]:
        command = [str(DEPLOY / "sweep.sh"), str(tmp_path / "a run"), "smoke", "--set", "name=a b"]
        return subprocess.check_output(command, env=environment(tmp_path, **more), text=True).splitlines()

    run = str(tmp_path / "a run")
    assert call() == ["sweep", "smoke", "--set", "name=a b", "--output", run, "--address", "auto"]
    Path(run).mkdir()
    Path(run, "sweep.yaml").touch()
    resumed = ["sweep", "--resume", run, "--trust-run", "--address", "head:6379"]
    assert call(RAY_ADDRESS="head:6379") == resumed


@pytest.mark.slow
def test_a_slurm_job_starts_ray_on_its_nodes_and_both_end_in_order(tmp_path: Path) -> None:
    write_command(tmp_path, "srun", SRUN)
    write_command(tmp_path, "scontrol", "#!/usr/bin/env bash\necho node1\n")
    write_command(tmp_path, "pareto-amb", f"#!{sys.executable}\n{SWEEP}")
    job = str(100_000 + os.getpid())
    slurm = {"SLURM_JOB_NODELIST": "node1", "SLURM_CPUS_PER_TASK": "3", "SLURM_JOB_ID": job}
    script = [str(DEPLOY / "sweep.sbatch"), str(tmp_path / "run"), "smoke"]
    where = environment(tmp_path, PARETO_AMB_DEPLOY=str(DEPLOY), **slurm)
    with subprocess.Popen(script, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as batch:
        deadline = time.monotonic() + 200
        while not (tmp_path / "joined").exists():
            assert batch.poll() is None, batch.stdout and batch.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        batch.send_signal(signal.SIGTERM)
        output, _ = batch.communicate(timeout=60)
    assert batch.returncode == 143, output
    assert (tmp_path / "stopped").exists()
    joined = (tmp_path / "joined").read_text()
    assert joined.startswith("3 ['sweep', 'smoke', '--output', ")
    assert "'--address', '127.0.0.1:" in joined
    calls = (tmp_path / "calls").read_text()
    assert "--nodelist=node1 ray start --head" in calls
    left = subprocess.run(["pgrep", "-f", f"/tmp/ray-{job}/"], capture_output=True, text=True).stdout
    assert left == ""
    shutil.rmtree(f"/tmp/ray-{job}")
