"""Faults at random moments of sweeps and audits, again and again, and whether what comes out is what should.

    python tests/chaos/chaos.py --faults 100 --output chaos.jsonl

What is struck: the driver, workers and processes of Ray's on one node or on two, the object store, the MLflow
server and, where root runs this on Linux, the network between the nodes. One line of JSON for each fault when
what it struck is done and compared, then a table by kind. Called again with the same file it goes on; a sweep
that was cut off is not in it.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))

from services import Services, served

Kind = tuple[str, str]
"""What is struck, and how."""

VICTIMS = {"worker": "ray::ResourceTrainable", "raylet": "raylet/raylet ", "GCS": "gcs/gcs_server"}
"""What a process is called by ps."""

ANYWHERE: list[Kind] = [
    ("driver", "SIGKILL"), ("driver", "SIGTERM"), ("driver", "SIGINT"), ("worker", "SIGKILL"),
    ("worker", "SIGTERM"), ("store", "slow"), ("store", "500"), ("store", "503"), ("store", "drops"),
    ("store", "gone"),
]  # fmt: skip
ALONE: list[Kind] = [("raylet", "SIGKILL"), ("GCS", "SIGKILL")]
ON_TWO_NODES: list[Kind] = [("second node", "SIGKILL"), ("third node", "joins")]
PARTED: list[Kind] = [("network", "cut short"), ("network", "cut long")]
TRACKED: list[Kind] = [("mlflow", "500"), ("mlflow", "drops")]

ENDING = {"driver", *dict(ALONE)}
"""What a command does not survive."""

EVALUATION = [
    "evaluation.fid_encoder=pixels",
    "evaluation.similarity_encoder=pixels",
    "search.max_retries=20",
]
SWEEP = [
    "search.startup_trials=4", "search.baseline_seeds=1", "training.images=6400", "evaluation.n_samples=40",
]  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What is disturbed, and where: a command with `settings`; the undisturbed one has `quiet`, too."""

    name: str
    command: Sequence[str]
    settings: Sequence[str]
    nodes: int
    quiet: Sequence[str] = ()

    def kinds(self, parted: bool) -> list[Kind]:
        """What may befall it; `parted`: the nodes' networks may be."""
        tracked = TRACKED if self.command == SEARCH else []
        between = [*ON_TWO_NODES, *(PARTED if parted else [])]
        return [*ANYWHERE, *tracked, *(ALONE if self.nodes == 1 else between)]

    def words(self, quiet: bool) -> list[str]:
        """Of the command that begins it."""
        settings = [*self.settings, *EVALUATION, *(self.quiet if quiet else [])]
        return [*self.command, *(word for each in settings for word in ("--set", each))]


SEARCH, MODELS = ["sweep", "smoke"], ["audit", "smoke", "--models", "8"]
FULL = [*SWEEP, "search.early_stopping=false", "search.branch_from=auto", "search.confirm.points=1"]
STOPPED = [*SWEEP, "search.early_stopping=true", "search.branch_from=null", "search.confirm.candidates=0"]
AUDIT = [
    "space.sigma_tn=[0.4]", "space.mix_ratio=[natural]", "space.train_size=[20]", "training.images=1280",
    "evaluation.n_samples=20",
]  # fmt: skip

SCENES = [
    Scene("sweep", SEARCH, FULL, nodes=1),
    Scene("sweep", SEARCH, FULL, nodes=2),
    Scene("early stopping", SEARCH, STOPPED, nodes=2, quiet=["search.early_stopping=false"]),
    Scene("audit", MODELS, AUDIT, nodes=1),
]
"""In turns. A sweep's trials are the same in whatever order they end; which ones pause is not."""

LONGEST = 900.0
"""Seconds within which a command that is left alone must be done."""

TIMES = ("train_seconds", "eval_seconds", "recorded_at")


@dataclass
class Fault:
    """What struck whom, after so many seconds of a command.

    `rows` were in the table then, and `rows_after` when the next one struck, or at the end. `lost` are
    seconds of training or measuring that had to be done again. `wrong` is the first difference that came out.
    """

    sweep: int
    scene: str
    nodes: int
    target: str
    how: str
    after: float
    rows: int
    rows_after: int = 0
    lost: float = 0.0
    wrong: str = ""


CUT_SECONDS = {"cut short": (5.0, 20.0), "cut long": (80.0, 100.0)}
"""By its defaults Ray takes a node for dead that does not answer for 65 seconds."""


class Network:
    """This machine and, where we may have it, a network namespace in which all nodes but the first are.

    Without it they share its loopback, and cannot be parted.
    """

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.other = self.host
        self._healing: threading.Timer | None = None

    @classmethod
    @contextmanager
    def made(cls) -> Iterator["Network"]:
        """One for the length of the block."""
        network, name = cls(), f"chaos{os.getpid()}"
        here, there = f"a{os.getpid()}", f"b{os.getpid()}"
        try:
            _ip("netns", "add", name)
        except (OSError, subprocess.CalledProcessError):
            yield network
            return
        try:
            _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            network.host, network.other = (f"10.213.{os.getpid() % 256}.{k}" for k in (1, 2))
            network.inside, network._link = ["ip", "netns", "exec", name], ["-n", name, "link", "set", there]
            _ip("addr", "add", f"{network.host}/30", "dev", here)
            _ip("-n", name, "addr", "add", f"{network.other}/30", "dev", there)
            _ip("link", "set", here, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            network.heal()
            yield network
        finally:
            _ip("netns", "del", name)

    def cut(self, seconds: float) -> None:
        """Part the nodes for so long."""
        self.heal()
        _ip(*self._link, "down")
        self._healing = threading.Timer(seconds, _ip, [*self._link, "up"])
        self._healing.start()

    def heal(self) -> None:
        """Let them reach each other again."""
        if self._healing:
            self._healing.cancel()
            self._healing.join()
        if self.inside:
            _ip(*self._link, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Nodes:
    """A Ray of two nodes, both on this machine, each with room for one trial."""

    def __init__(self, network: Network) -> None:
        self._authorized = os.environ.get("RAY_AUTH_MODE")
        os.environ["RAY_AUTH_MODE"] = "disabled"
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_log_monitor": False, "include_dashboard": False, "no_monitor": True}
        self._cluster = Cluster(head_node_args=head | {"node_ip_address": network.host}, initialize_head=True)
        self.address, self._network = self._cluster.address, network
        self._joined: list[subprocess.Popen[bytes]] = []
        self.join()

    def lose(self) -> None:
        """End the node that joined last at once, as a machine that is gone."""
        _end(self._joined.pop())

    def join(self) -> None:
        """Another one."""
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
        places = ["--address", self.address, "--node-ip-address", self._network.other]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [*self._network.inside, *ray, *places]
        self._joined.append(subprocess.Popen(command, start_new_session=True, **quiet))

    def stop(self) -> None:
        """End them all."""
        self._network.heal()
        for node in self._joined:
            _end(node)
        self._cluster.shutdown()
        del os.environ["RAY_AUTH_MODE"]
        os.environ.update({"RAY_AUTH_MODE": self._authorized} if self._authorized else {})


def _end(node: subprocess.Popen[bytes]) -> None:
    """Kill all processes of a node."""
    for pid in [*_below(node.pid, ""), node.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.wait()


class Run:
    """A sweep or an audit in a folder, disturbed or not."""

    def __init__(
        self, scene: Scene, folder: Path, services: Services, network: Network, quiet: bool = False
    ) -> None:
        folder.mkdir()
        self.scene, self._services, self._network, self._quiet = scene, services, network, quiet
        self.folder, self.run, self._log = folder, folder / "run", folder / "log"
        self._nodes: Nodes | None = None
        self.faults: list[Fault] = []
        self.known = pd.DataFrame()
        """The table when the last fault struck."""
        self._moments: list[float] = []
        self._idle: list[set[str]] = []  # at each fault, the trials that had nothing to lose

    def disturb(
        self, kinds: Sequence[Kind], draw: random.Random, pause: float, number: int = 0, measured: int = 0
    ) -> None:
        """Run it to its end, and strike at random moments, in the mean so many seconds apart.

        What it does not survive strikes when so many rows are `measured`. It may end before all has struck.
        RuntimeError where it fails by itself.
        """
        waiting, done = list(kinds), False
        with self._on_nodes():
            while not done:
                with self._started() as process:
                    began, excused = time.monotonic(), self._services.troubled
                    while waiting and _lives(process, draw.uniform(0, 2 * pause)):
                        moment, table = time.monotonic(), self.table()
                        if waiting[0][0] in ENDING and _measured(table) < measured:
                            continue
                        if not self._strike(waiting[0], process.pid, draw):
                            continue  # it is not there yet
                        excused = True
                        self._note(number, waiting.pop(0), moment, moment - began, table)
                        if self.faults[-1].target in ENDING:
                            break
                    code = process.wait(LONGEST)
                done = code == 0
                if not (done or excused):
                    raise RuntimeError(f"a {self.scene.name} ended with {code}: {self._log.read_text()}")
        self._settle()

    @contextmanager
    def _on_nodes(self) -> Iterator[None]:
        if self.scene.nodes == 1 or self._quiet:
            yield
            return
        self._nodes = Nodes(self._network)
        try:
            yield
        finally:
            self._nodes.stop()

    @contextmanager
    def _started(self) -> Iterator[subprocess.Popen[bytes]]:
        """The command that begins it, or goes on with it; it is killed with the block."""
        if any((self.run / name).exists() for name in ("sweep.yaml", "audit.yaml")):
            words = [self.scene.command[0], "--resume", "run", "--trust-run"]
        else:
            storage = f"storage={self._services.storage(self.folder.name)}"
            words = [*self.scene.words(self._quiet), "--set", storage, "--output", "run"]
        words += ["--address", self._nodes.address] if self._nodes else []
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pareto_amb", *words], cwd=self.folder,
                env={**os.environ, **self._services.environment}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _strike(self, kind: Kind, driver: int, draw: random.Random) -> bool:
        """Whether what is to be struck was there."""
        target, how = kind
        if target in ("store", "mlflow"):
            services = {"store": self._services.store, "mlflow": self._services.mlflow}
            services[target].trouble(how, draw.uniform(5, 20))
        elif target == "network":
            self._network.cut(draw.uniform(*CUT_SECONDS[how]))
        elif self._nodes and target == "second node":
            self._nodes.lose()
            time.sleep(draw.uniform(0, 5))
            self._nodes.join()
        elif self._nodes and target == "third node":
            self._nodes.join()
        else:
            found = [driver] if target == "driver" else _below(os.getpid(), VICTIMS[target])
            if not found:
                return False
            os.kill(draw.choice(found), getattr(signal, how))
        return True

    def _note(self, number: int, kind: Kind, moment: float, after: float, table: pd.DataFrame) -> None:
        """Remember what has just struck, and what the table had before."""
        if self.faults:
            self.faults[-1].rows_after = len(table)
        scene = self.scene
        self.faults.append(Fault(number, scene.name, scene.nodes, *kind, round(after, 1), len(table)))
        idle = table[table["status"].isin(["paused", "complete"])]["trial_id"] if len(table) else []
        self.known = table
        self._moments.append(moment)
        self._idle.append(set(idle))

    def table(self) -> pd.DataFrame:
        path = self.run / "results.parquet"
        return pd.read_parquet(path) if path.exists() else pd.DataFrame()

    def _settle(self) -> None:
        """Say of each fault what it cost.

        A trial that begins again lost what it did since its checkpoint, until the first fault after that.
        """
        if self.faults:
            self.faults[-1].rows_after = len(self.table())
        store = self._services.store
        for trial in self.table()["trial_id"].unique():
            begun = store.begun[trial]
            for again in begun:
                before = [t for t in (*begun, *store.written[trial]) if t < again]
                for fault, moment, idle in zip(self.faults, self._moments, self._idle, strict=True):
                    if before and max(before) < moment < again and trial not in idle:
                        fault.lost = round(fault.lost + moment - max(before), 2)
                        break
        store.begun.clear()
        store.written.clear()

    def wrong(self, wanted: "Run") -> list[str]:
        """What came out otherwise than of the same, undisturbed."""
        found, should = self.table(), wanted.table()
        said = paused_differences(found, should) if self.scene.quiet else differences(found, should)
        if "Traceback" in self._log.read_text():
            said.append(f"a traceback in {self._log}")
        if self.scene.command == MODELS:
            parts = [run.run / "audit.csv" for run in (self, wanted)]
            return said + (["audit.csv"] if parts[0].read_bytes() != parts[1].read_bytes() else [])
        return said + self._wrong_answer() + self._wrong_tracking()

    def _wrong_answer(self) -> list[str]:
        from pareto_amb.results.recommendation_file import build_recommendation
        from pareto_amb.results.run import Run as Finished
        from pareto_amb.results.run_directory import RunDirectory

        written = list((Finished.read(self.run).recommendations or {}).values())
        derived = list(build_recommendation(RunDirectory(self.run)).recommendations)
        answers = [
            [(each.train_size, each.method, each.parameters) for each in found]
            for found in (written, derived)
        ]
        return [] if answers[0] and answers[0] == answers[1] else ["recommendation.yaml"]

    def _wrong_tracking(self) -> list[str]:
        """What MLflow lacks that the command has not said it lacks; what it said is logged first."""
        if "mlflow sync" in self._log.read_text():
            self._services.wait()
            command = [sys.executable, "-m", "pareto_amb", "mlflow", "sync", "run", "--trust-run"]
            environment = {**os.environ, **self._services.environment}
            subprocess.run(command, cwd=self.folder, env=environment, check=True, capture_output=True)
        uuid = json.loads((self.run / "environment.json").read_text())["run_uuid"]
        tracked, last = self._services.tracked(uuid), self.table().groupby("trial_id").last()
        wanted = {str(trial): row["fid"] for trial, row in last.iterrows()}
        figures = {trial: found.metrics for trial, found in tracked.items()}
        logged = {trial: found.get("fid", found.get("branched_fid")) for trial, found in figures.items()}
        return [f"MLflow has {logged.get(k)} of {k}" for k, fid in wanted.items() if logged.get(k) != fid]


def _measured(table: pd.DataFrame) -> int:
    """The rows of a table that are more than the mark of a trial that has begun."""
    return int((table["rung"] > 0).sum()) if len(table) else 0


def _lives(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process still runs after so many seconds."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is None


def _below(ancestor: int, called: str) -> list[int]:
    """The processes that descend from one and are called so."""
    parents, names = dict[int, int](), dict[int, str]()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            stat = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if stat[0] != "Z":
                parents[int(place.name)] = int(stat[1])
                names[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    inside = {ancestor}
    for _ in range(6):
        inside |= {pid for pid, parent in parents.items() if parent in inside}
    return [pid for pid in sorted(inside) if called in names.get(pid, "")]


def differences(found: pd.DataFrame, wanted: pd.DataFrame, apart: Sequence[str] = ()) -> list[str]:
    """What a table lacks of another, has twice or otherwise, as `trial rung column`; times do not count."""
    key = ["trial_id", "rung"]
    both = wanted.merge(found, on=key, how="outer", suffixes=("", "_found"), indicator="where")
    said = [f"{row.trial_id} {row.rung} {row.where}" for row in both[both["where"] != "both"].itertuples()]
    said += [f"{row.trial_id} {row.rung} twice" for row in found[found.duplicated(key)].itertuples()]
    common = both[both["where"] == "both"]
    for name in wanted.columns.difference([*key, *TIMES, *apart], sort=False):
        ours, theirs = map(str, common[name]), map(str, common[f"{name}_found"])
        unlike = [one != other for one, other in zip(ours, theirs, strict=True)]
        said += [f"{row.trial_id} {row.rung} {name}" for row in common[unlike].itertuples()]
    return said


def paused_differences(found: pd.DataFrame, wanted: pd.DataFrame) -> list[str]:
    """What of a search with early stopping cannot be, beside one in which every trial came to its end.

    Which trials pause depends on the order of results. Each has the first of its rows, with the same figures.
    """
    said, kept = [], []
    for trial, full in wanted.groupby("trial_id"):
        rows = found[found["trial_id"] == trial]
        kept.append(full.sort_values("rung")[: rows["rung"].nunique()])
        state = "complete" if rows["rung"].nunique() == len(full) else "paused"
        if set(rows["status"]) != {state}:
            said.append(f"{trial} {'is lost' if rows.empty else f'is {set(rows.status)}, not {state}'}")
    return said + differences(found, pd.concat(kept), apart=["status"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--each", type=int, default=6, help="of one sweep, at most")
    parser.add_argument("--minutes", type=float, default=60, help="begin no further sweep after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("chaos.jsonl"))
    options = parser.parse_args()
    happened = read(options.output)
    until = time.monotonic() + 60 * options.minutes
    with (
        tempfile.TemporaryDirectory() as place,
        Network.made() as network,
        served(Path(place), network.host) as services,
    ):
        quiet = dict[str, tuple[Run, float]]()
        while len(happened) < options.faults and time.monotonic() < until:
            number = max((fault.sweep for fault in happened), default=0) + 1
            scene, draw = SCENES[number % len(SCENES)], random.Random(f"{options.seed} {number}")
            if scene.name not in quiet:
                quiet[scene.name] = undisturbed(scene, Path(place) / f"quiet-{len(quiet)}", services, network)
            counts = Counter((fault.target, fault.how) for fault in happened)
            kinds = scene.kinds(parted=bool(network.inside))
            kinds = sorted(kinds, key=lambda kind: (counts[kind], draw.random()))[: options.each]
            draw.shuffle(kinds)
            wanted, seconds = quiet[scene.name]
            run = Run(scene, Path(place) / str(number), services, network)
            try:
                run.disturb(kinds[: options.faults - len(happened)], draw, seconds / 4, number)
                conclude(run, run.wrong(wanted))
            except (RuntimeError, AssertionError, subprocess.TimeoutExpired) as error:
                if not run.faults:
                    raise
                conclude(run, [str(error)])
            happened += run.faults
            with options.output.open("a") as file:
                file.writelines(json.dumps(asdict(fault)) + "\n" for fault in run.faults)
    print(summary(happened))


def undisturbed(scene: Scene, folder: Path, services: Services, network: Network) -> tuple[Run, float]:
    """A scene that nothing strikes, and its seconds. RuntimeError where it fails."""
    began, run = time.monotonic(), Run(scene, folder, services, network, quiet=True)
    run.disturb([], random.Random(0), 0)
    return run, time.monotonic() - began


def conclude(run: Run, wrong: Sequence[str]) -> None:
    """Say how a disturbed run went."""
    for fault in run.faults:
        fault.wrong = wrong[0] if wrong else ""
        print(f"  {fault.target} {fault.how} after {fault.after} s: {fault.lost} s lost", flush=True)
    print(f"{run.scene.name} on {run.scene.nodes}: {wrong or 'all alike'}", flush=True)


def read(path: Path) -> list[Fault]:
    """The faults of a file, none where there is no file."""
    return [Fault(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def summary(faults: Sequence[Fault]) -> str:
    """A table by kind: how many, how many struck what came out alike, seconds lost."""
    by_kind = defaultdict[Kind, list[Fault]](list)
    for fault in faults:
        by_kind[fault.target, fault.how].append(fault)
    lines = ["what         how      faults  alike  mean s lost  max s lost"]
    for (target, how), found in sorted(by_kind.items()):
        lost, alike = [fault.lost for fault in found], sum(not fault.wrong for fault in found)
        lines.append(
            f"{target:12} {how:8} {len(found):6} {alike:6} {sum(lost) / len(lost):12.1f} {max(lost):11.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
