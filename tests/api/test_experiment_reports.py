"""Reports of experiments that take long to compute: many who ask for them hold up nobody, and share the work."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from service.errors import NotReadyError
from service.experiments import experimentation
from service.experiments.experimentation import Experimentation
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
    monkeypatch.setattr(Experimentation, "_show", lambda _: None)
    async with running(zoo, experiments_file=declare(tmp_path, experiment("paired")), **OPTIONS) as client:
        client.experimentation = client.app.state.services.experimentation
        (client.declaration,) = client.experimentation.experiments.all()
        yield client


@pytest.mark.parametrize("path", ["/experiments", "/experiments/paired-test"])
async def test_who_waits_for_a_report_takes_no_thread_from_others(client, monkeypatch, path):
    monkeypatch.setattr(experimentation, "analyse", held := Held(experimentation.analyse))
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
    monkeypatch.setattr(experimentation, "analyse", held := Held(experimentation.analyse))
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
    monkeypatch.setattr(client.experimentation, "report", held := Held(client.experimentation.report))
    changed = client.declaration.model_copy(update={"margin": 0.5})
    leaving, *staying = [asyncio.create_task(client.experimentation.reported(client.declaration)) for _ in range(4)]
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    of_changed = asyncio.create_task(client.experimentation.reported(changed))
    await asyncio.sleep(0)
    held.release()
    first, *others = await asyncio.gather(*staying)
    assert all(other is first for other in others)
    assert await of_changed is not first
    assert held.asked == [(client.declaration,), (changed,)]


async def test_a_report_is_fresh_from_its_end_however_long_it_took(client, monkeypatch):
    now, analyse = [1000.0], experimentation.analyse

    def slow(*arguments):
        now[0] += 5
        return analyse(*arguments)

    monkeypatch.setattr(experimentation, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(experimentation, "analyse", slow)
    first, before = client.experimentation.report(client.declaration), client.experimentation.store.changes()
    await ask(client, picture())
    async with asyncio.timeout(PATIENCE_S):
        while client.experimentation.store.changes() == before:  # the other arm may run after the answer
            client.experimentation.recorder.flush()
            await asyncio.sleep(0.01)
    assert client.experimentation.report(client.declaration) is first
    now[0] += 1
    assert client.experimentation.report(client.declaration) is not first


async def test_nothing_is_kept_of_an_experiment_that_was_removed(anyio_backend, zoo, tmp_path, op, monkeypatch):
    def refused(_):
        raise NotReadyError("An arm does not run.")

    async with running(zoo, experiments_file=declare(tmp_path, experiment("paired")), **OPTIONS) as client:
        found = client.app.state.services.experimentation
        assert (await client.get("/experiments/paired-test")).status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(found.experiments, "handles", refused)
            await ask(client, picture())
        kept = found._reports, found._asked, found.experiments._complaints
        assert [list(each) for each in kept] == [["paired-test"]] * 3
        assert (await client.delete("/admin/experiments/paired-test", headers=ADMIN)).status_code == 204
        await asyncio.to_thread(found._show)
        assert [list(each) for each in kept] == [[], [], []]
