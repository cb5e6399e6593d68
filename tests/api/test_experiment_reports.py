"""Reports of experiments that take long to compute: many who ask for them hold up nobody, and share the work."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from service.errors import NotReadyError
from service.experiments import reports
from service.experiments.reports import Reports
from tests.api.conftest import metric, running
from tests.api.test_experiments import ADMIN, OPTIONS, ask, declare, experiment, picture
from tests.waiting import until

pytestmark = pytest.mark.anyio

POLLERS = 40  # asyncio's pool has at most 32 threads
PATIENCE_S = 60


class Held:
    """A function that waits to be released, and then does what it did before."""

    def __init__(self, ordinary):
        self._ordinary, self._release = ordinary, threading.Event()
        self.asked = []
        self.release = self._release.set

    def __call__(self, *arguments, **options):
        self.asked.append(arguments)
        assert self._release.wait(PATIENCE_S)
        return self._ordinary(*arguments, **options)


@pytest.fixture
async def client(anyio_backend, zoo, tmp_path, op, monkeypatch):
    """A service with a paired experiment, whose results are computed for those only who ask."""
    monkeypatch.setattr(Reports, "update_gauges", lambda _: None)
    async with running(zoo, experiments_file=declare(tmp_path, experiment("paired")), **OPTIONS) as client:
        client.experimentation = client.app.state.services.experimentation
        client.reports = client.experimentation.reports
        (client.declaration,) = client.experimentation.experiments.all()
        yield client


@pytest.mark.parametrize("path", ["/experiments", "/experiments/paired-test"])
async def test_who_waits_for_a_report_takes_no_thread_from_others(client, monkeypatch, path):
    monkeypatch.setattr(reports, "analyse", held := Held(reports.analyse))
    try:
        asked = [asyncio.create_task(client.get(path)) for _ in range(POLLERS)]
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: held.asked and metric(client, "bireal_in_flight") >= POLLERS)
            await asyncio.to_thread(lambda: None)
    finally:
        held.release()
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * POLLERS
    assert len(held.asked) == 1


async def test_a_change_takes_no_thread_while_its_report_is_computed(client, monkeypatch):
    monkeypatch.setattr(reports, "analyse", held := Held(reports.analyse))
    try:
        asked = [
            asyncio.create_task(
                client.patch("/admin/experiments/paired-test", json={"state": "running"}, headers=ADMIN)
            )
            for _ in range(POLLERS)
        ]
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: held.asked and metric(client, "bireal_in_flight") >= POLLERS)
            await asyncio.to_thread(lambda: None)
    finally:
        held.release()
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * POLLERS


async def test_all_who_ask_meanwhile_share_one_report_and_one_who_leaves_does_not_end_it(client, monkeypatch):
    monkeypatch.setattr(client.reports, "compute", held := Held(client.reports.compute))
    changed = client.declaration.model_copy(update={"margin": 0.5})
    leaving, *staying = [asyncio.create_task(client.reports.get(client.declaration)) for _ in range(4)]
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    of_changed = asyncio.create_task(client.reports.get(changed))
    await asyncio.sleep(0)
    held.release()
    first, *others = await asyncio.gather(*staying)
    assert all(other is first for other in others)
    assert await of_changed is not first
    assert held.asked == [(client.declaration,), (changed,)]


async def test_a_report_is_fresh_from_its_end_however_long_it_took(client, monkeypatch):
    now, analyse = [1000.0], reports.analyse

    def slow(*arguments):
        now[0] += 5
        return analyse(*arguments)

    monkeypatch.setattr(reports, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(reports, "analyse", slow)
    first, before = client.reports.compute(client.declaration), client.experimentation.store.changes()
    await ask(client, picture())
    async with asyncio.timeout(PATIENCE_S):
        while client.experimentation.store.changes() == before:  # the other arm may run after the answer
            client.experimentation.recorder.flush()
            await asyncio.sleep(0.01)
    assert client.reports.compute(client.declaration) is first
    now[0] += 1
    assert client.reports.compute(client.declaration) is not first


async def test_figures_without_data_any_more_are_shown_no_longer(anyio_backend, zoo, tmp_path, op):
    async with running(zoo, experiments_file=declare(tmp_path, experiment("paired")), **OPTIONS) as client:
        found = client.app.state.services.experimentation

        def shown() -> float:
            found.recorder.flush()
            found.reports.update_gauges()
            return metric(client, "bireal_experiment_agreement", experiment="paired-test", bound="upper")

        await ask(client, picture())
        async with asyncio.timeout(PATIENCE_S):
            while await asyncio.to_thread(shown) == 0:  # noqa: ASYNC110  the store tells of no change
                await asyncio.sleep(0.01)
        found.store.prune(max_age_s=0, max_rows=10, now=time.time() + 1)
        assert await asyncio.to_thread(shown) == 0


async def test_nothing_is_kept_of_an_experiment_that_was_removed(anyio_backend, zoo, tmp_path, op, monkeypatch):
    def refused(_):
        raise NotReadyError("An arm does not run.")

    async with running(zoo, experiments_file=declare(tmp_path, experiment("paired")), **OPTIONS) as client:
        found = client.app.state.services.experimentation
        assert (await client.get("/experiments/paired-test")).status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(found.experiments, "handles", refused)
            await ask(client, picture())
        assert found.reports.names() == found.experiments._complaints.keys() == {"paired-test"}
        assert (await client.delete("/admin/experiments/paired-test", headers=ADMIN)).status_code == 204
        await asyncio.to_thread(found.reports.update_gauges)
        assert found.reports.names() == found.experiments._complaints.keys() == set()
