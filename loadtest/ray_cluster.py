"""A real two-node Ray cluster on this machine with the service on Ray Serve, for load and failure tests.

Ray runs from its own environment (`make ray`); this module only starts and stops its processes. Every process of a node
has the node's mark in its environment, so that a node can be killed as a whole and no process is left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from loadtest.stack import ROOT, StackError, free_port, wait_for

CONFIG = ROOT / "deploy" / "ray" / "serve.yaml"
PROGRAMS = ROOT / ".venv-ray" / "bin"

HEAD, WORKER = "127.0.0.2", "127.0.0.3"
_MARK = "LOADTEST_RAY_NODE"
_NODE_CPUS = 8  # logical CPUs, which limit the number of replicas per node
_STORE_BYTES = 80_000_000
_START_S = 120.0
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",  # both nodes should get requests
    "RAY_DISABLE_DASHBOARD_UI": "1",
}


def missing() -> str | None:
    """Why a cluster cannot run here; None if it can."""
    if not (PROGRAMS / "serve").exists():
        return "Ray is not installed: run `make ray`"
    if not Path("/proc/self/environ").exists():
        return "the trial reads /proc, which this system does not have"
    return None


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        url: address of Serve's proxy on the head node.
        folder: folder of the logs.
        marks: mark of each node's processes.
    """

    url: str
    folder: Path
    marks: Mapping[str, str]

    def replicas(self, application: str | None = None) -> list[dict[str, str]]:
        """The live replicas that announce themselves: target, node, pid, application. Empty while this is unknown."""
        try:
            answer = httpx.get(f"{self.url}/metrics-targets/", timeout=2)
        except httpx.TransportError:  # the replica that reports them may have been killed
            return []
        if answer.status_code != 200:
            return []
        found = [
            {"target": item["targets"][0]}
            | {name.removeprefix("bireal_"): value for name, value in item["labels"].items()}
            for item in answer.json()
        ]
        return [item for item in found if application in {None, item["application"]} and _alive(int(item["pid"]))]

    def kill_node(self, address: str) -> int:
        """Kills every process of a node at once, like a machine failure. Returns the number of processes."""
        pids = _marked(self.marks[address])
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)


@contextlib.contextmanager
def cluster(config: Mapping[str, Any], variables: Mapping[str, str], *, wait_s: float = 150.0) -> Iterator[Cluster]:
    """A ready cluster of two nodes with the applications of a Serve configuration.

    Args:
        config: like deploy/ray/serve.yaml; the proxy's port is replaced by a free one.
        variables: environment variables of every replica.
        wait_s: maximum time until every application runs.

    Raises:
        StackError: the cluster does not start; the message contains Ray's output.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray puts sockets there
    name = uuid.uuid4().hex[:8]
    port, proxy_port = free_port(), free_port()
    marks = {address: f"{name}-{address}" for address in (HEAD, WORKER)}
    wanted = {**config, "http_options": {"host": "127.0.0.1", "port": proxy_port}}
    (folder / "serve.yaml").write_text(yaml.safe_dump(wanted))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)

        def environment(address: str) -> dict[str, str]:
            inherited = {key: value for key, value in os.environ.items() if not key.startswith(("BIREAL_", "RAY_"))}
            path = os.pathsep.join([str(PROGRAMS), inherited.get("PATH", "")])
            return {**inherited, **_ENVIRONMENT, **variables, "PATH": path, _MARK: marks[address]}

        def start(address: str, *options: str) -> None:
            stack.callback(_end, marks[address])
            command = [str(PROGRAMS / "ray"), "start", f"--node-ip-address={address}", *options]
            command += [f"--num-cpus={_NODE_CPUS}", f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats"]
            how: dict[str, Any] = {"cwd": ROOT, "env": environment(address), "capture_output": True, "text": True}
            try:
                ended = subprocess.run(command, **how, timeout=_START_S, check=False)  # noqa: S603  arguments of our own
            except subprocess.TimeoutExpired as error:
                raise StackError(f"ray start for {address} was still running after {_START_S:g} s.") from error
            if ended.returncode:
                raise StackError(f"ray start failed: {(ended.stderr or ended.stdout)[-800:]}")

        start(HEAD, "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder / 'r'}")
        start(WORKER, f"--address={HEAD}:{port}")
        log = stack.enter_context((folder / "serve.log").open("w"))
        serving = subprocess.Popen(  # noqa: S603  no shell, and arguments of our own
            [str(PROGRAMS / "serve"), "run", f"--address={HEAD}:{port}", str(folder / "serve.yaml")],
            cwd=ROOT,
            env=environment(HEAD),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        stack.callback(_interrupt, serving)
        running = Cluster(f"http://127.0.0.1:{proxy_port}", folder, marks)

        def up() -> bool:
            said = (folder / "serve.log").read_text()
            if serving.poll() is not None:
                raise StackError(f"serve run ended with {serving.returncode}: {said[-1500:]}")
            with contextlib.suppress(httpx.TransportError):
                least = {app["name"]: 1 for app in wanted["applications"] if app["name"] != "targets"}
                for app in wanted["applications"]:
                    for deployment in app.get("deployments", ()):
                        least[app["name"]] = deployment.get("autoscaling_config", {}).get("min_replicas", 1)
                return all(len(running.replicas(app)) >= count for app, count in least.items())
            return False

        try:
            wait_for("every application of Ray Serve runs", up, wait_s)
        except StackError as error:
            raise StackError(f"{error} {_complaints(folder / 'serve.log')}") from error
        yield running


@dataclass
class Load:
    """Results of continuous requests from several clients during a block of code.

    Attributes:
        statuses: number of responses by status; 0 is a failed connection.
        slowest_s: longest time of a request.
    """

    statuses: dict[int, int] = field(default_factory=dict)
    slowest_s: float = 0.0

    @property
    def answered(self) -> int:
        """Number of requests answered with 200."""
        return self.statuses.get(200, 0)

    @property
    def lost(self) -> int:
        """Number of requests answered with anything else, or not at all."""
        return sum(self.statuses.values()) - self.answered


@contextlib.contextmanager
def load(url: str, path: str, image: bytes, clients: int) -> Iterator[Load]:
    """Sends requests to a path of a service, without retries."""
    found, lock, done = Load(), threading.Lock(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not done.is_set():
                began = time.monotonic()
                try:
                    status = client.post(path, content=image, headers={"content-type": "image/jpeg"}).status_code
                except httpx.TransportError:
                    status = 0
                with lock:
                    found.statuses[status] = found.statuses.get(status, 0) + 1
                    found.slowest_s = max(found.slowest_s, time.monotonic() - began)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _marked(mark: str) -> list[int]:
    """Processes with a mark in their environment."""
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def _complaints(log: Path) -> str:
    """The end of Serve's log, without INFO lines."""
    lines = [line for line in log.read_text().splitlines() if " INFO " not in line]
    return "\n".join(lines)[-3000:]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ends `serve run`, which first shuts down the applications; waits only briefly, since the cluster ends anyway."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end(mark: str) -> None:
    """Ends a node's processes."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        pids = _marked(mark)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)
        give_up = time.monotonic() + 5
        while _marked(mark) and time.monotonic() < give_up:
            time.sleep(0.1)
