"""Decoding in processes of their own: equal answers, refusals, a process that dies, and an end without orphans."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from extraction_values import TASK
from odin_slm.core import errors
from odin_slm.models.base_model import BaseModel, load_tokenizer
from odin_slm.serving import processes
from odin_slm.serving.__main__ import _in_processes
from odin_slm.serving.settings import ServingSettings
from serving_service import metric, service, service_process, wait_for

EXAMPLE = TASK.example
TEXTS = [f"{EXAMPLE} Case {number}." for number in range(12)]


OTHERS: set[int] = set()
"""Processes that other tests have left."""


@pytest.fixture(scope="module")
def client(tiny_base: Path) -> Iterator[httpx.Client]:
    OTHERS.update(process.pid for process in helpers())
    with service(tiny_base, decoders="processes", batch_size=2, queue_size=4, max_texts=4, max_windows=4) as client:
        yield client


def post(client: httpx.Client, text: str = EXAMPLE) -> httpx.Response:
    return client.post("/predict", json={"text": text})


def helpers() -> list[psutil.Process]:
    """The processes that decode: children of this one that ``multiprocessing`` has spawned."""
    children = [child for child in psutil.Process().children() if child.pid not in OTHERS]
    children = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_answers_are_those_of_threads(client: httpx.Client, tiny_base: Path) -> None:
    assert len(helpers()) == metric(client, "odin_decoders") == 2
    with service(tiny_base) as threads:
        expected = [post(threads, text).json()["results"] for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        found = [answer.json()["results"] for answer in pool.map(lambda text: post(client, text), TEXTS)]
    assert [[(r["output"], r["entities"] and r["entities"][0]["text"]) for r in one] for one in found] == [
        [(r["output"], r["entities"] and r["entities"][0]["text"]) for r in one] for one in expected
    ]
    assert metric(client, "odin_batch_size_count") >= 6
    assert metric(client, "odin_queue_seconds_count") >= len(TEXTS)


def test_a_text_that_is_too_long_is_refused_and_takes_no_place(client: httpx.Client) -> None:
    assert post(client, "word " * 3000).status_code == 413
    assert metric(client, "odin_queue_length") == 0
    assert post(client).status_code == 200


def test_what_waits_is_bounded_and_nothing_is_lost(client: httpx.Client) -> None:
    wait_for(lambda: post(client).status_code == 200)
    stopped = helpers()
    for process in stopped:
        process.suspend()
    try:
        with ThreadPoolExecutor(10) as pool:
            begun = [pool.submit(post, client, text) for text in TEXTS[:8]]  # two batches of two, and four that wait
            wait_for(lambda: metric(client, "odin_queue_length") == 4)
            refused = post(client)
            assert (refused.status_code, refused.json()["error"]) == (429, "too_many_requests")
            assert int(refused.headers["retry-after"]) >= 1
            for process in stopped:
                process.resume()
            assert [one.result().status_code for one in begun] == [200] * 8
    finally:
        for process in stopped:
            process.resume()


def test_a_client_that_goes_frees_its_place(client: httpx.Client) -> None:
    wait_for(lambda: post(client).status_code == 200)
    stopped, before = helpers(), metric(client, "odin_cancelled_prompts_total")
    for process in stopped:
        process.suspend()
    try:
        with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as going:
            body = json.dumps({"texts": TEXTS[:4]}).encode()
            head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            going.sendall(head.encode() + b"\r\n\r\n" + body)
            wait_for(lambda: metric(client, "odin_requests_in_flight") >= 2)
        wait_for(lambda: metric(client, "odin_cancelled_prompts_total") == before + 4)
    finally:
        for process in stopped:
            process.resume()
    with ThreadPoolExecutor(8) as pool:  # as many as there is room for: the four have left their batches
        assert [answer.status_code for answer in pool.map(lambda text: post(client, text), TEXTS[:8])] == [200] * 8


def test_a_process_that_dies_is_replaced_and_takes_only_its_own_prompts(client: httpx.Client) -> None:
    wait_for(lambda: post(client).status_code == 200)
    dying, other = helpers()
    dying.suspend()
    with ThreadPoolExecutor(4) as pool:
        begun = [pool.submit(post, client, text) for text in TEXTS[:2]]  # one for each
        wait_for(lambda: sum(one.done() for one in begun) == 1)
        dying.kill()
        assert sorted(one.result().status_code for one in begun) == [200, 503]
    assert metric(client, "odin_decoders") == 1
    assert all(post(client, text).status_code == 200 for text in TEXTS[:4]), "the other one goes on"
    wait_for(lambda: metric(client, "odin_decoders") == 2, 60)
    assert dying not in helpers()
    other.suspend()  # now only the new one can answer
    try:
        wait_for(lambda: _answers(client), 60)
    finally:
        other.resume()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.post("/predict", json={"text": EXAMPLE}, timeout=5).status_code == 200
    except httpx.TimeoutException:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_service(tiny_base: Path, number: int) -> None:
    options = {"workers": 2, "decoders": "processes", "max_new_tokens": 200}
    with service_process(model=tiny_base, **options) as (process, client):
        with ThreadPoolExecutor(6) as pool:
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) >= 2
            begun = [pool.submit(post, client, text) for text in TEXTS[:5]]
            wait_for(lambda: metric(client, "odin_requests_in_flight") >= 3)
            process.send_signal(number)
            if number == signal.SIGTERM:
                for child in children:  # as an end of the whole group, by a keyboard or a service manager, does
                    child.send_signal(signal.SIGINT)
                assert [one.result().status_code for one in begun] == [200] * 5
                assert process.wait(20) == 0
            else:
                assert any(one.exception() for one in begun), "broken connections"
        process.wait(20)
        wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))


def test_a_model_that_cannot_be_loaded_stops_the_start_with_its_error(tiny_base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    base, before = BaseModel("tiny", tiny_base), len(helpers())
    with pytest.raises(errors.AdapterError, match="PREFIX_TUNING") as caught:
        processes.ProcessEngine(base, adapter, load_tokenizer(base), 1024, _Unused(), workers=1)  # type: ignore[arg-type]
    assert caught.value.fix
    wait_for(lambda: len(helpers()) == before)


class _Unused:
    """An observer of an engine that does not start."""


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert processes.available_cores() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert processes.available_cores() == len(psutil.Process().cpu_affinity())


def test_a_process_that_cannot_be_started_again_is_tried_until_it_can(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for(lambda: metric(client, "odin_decoders") == 2, 60)
    original, failures = processes._Helper.wait_until_loaded, []

    def failing_once(helper: processes._Helper) -> None:
        original(helper)
        if not failures:
            failures.append(helper)
            helper.process.kill()
            raise errors.ServingError("no memory.")

    monkeypatch.setattr(processes._Helper, "wait_until_loaded", failing_once)
    helpers()[0].kill()
    wait_for(lambda: metric(client, "odin_decoders") == 1)
    wait_for(lambda: metric(client, "odin_decoders") == 2, 60)
    assert len(failures) == 1
    assert len(helpers()) == 2


def test_a_service_that_stops_waits_for_no_process_that_is_being_started(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(helpers())
    with service(tiny_base, decoders="processes", workers=1) as stopping:
        assert post(stopping).status_code == 200

        def never(helper: processes._Helper) -> None:
            helper.process.join(60)
            raise errors.ServingError("killed.")

        monkeypatch.setattr(processes._Helper, "wait_until_loaded", never)
        (first,) = [
            process for process in helpers() if process.create_time() == max(p.create_time() for p in helpers())
        ]
        first.kill()
        wait_for(lambda: metric(stopping, "odin_decoders") == 0)
        wait_for(lambda: len(helpers()) == before + 1)  # the next one, which never says that it has loaded
        begin = time.monotonic()
    assert time.monotonic() - begin < 15
    wait_for(lambda: len(helpers()) == before)


def test_small_models_get_processes_where_there_are_cores(tiny_base: Path, tmp_path: Path) -> None:
    def chosen(folder: Path, **settings: Any) -> bool:
        model = type("Model", (), {"base": BaseModel("tiny", folder), "adapter": None})
        return _in_processes(ServingSettings(**settings), model)

    large = tmp_path / "large"
    shutil.copytree(tiny_base, large)
    os.truncate(large / "model.safetensors", 2**29)
    assert chosen(tiny_base, workers=2)
    assert not chosen(tiny_base, workers=1)
    assert not chosen(large, workers=2)
    assert chosen(large, workers=2, decoders="processes")
    assert not chosen(tiny_base, workers=2, decoders="threads")
    for model, worth in ((tiny_base, True), (tmp_path, False)):  # of a base on the Hub only the adapter's size is known
        assert processes.worth_processes(BaseModel("meta-llama/Llama-3.1-8B", None), model) is worth


@pytest.mark.parametrize("kind", [errors.OdinError, *errors.OdinError.__subclasses__()], ids=lambda kind: kind.__name__)
def test_errors_travel_between_processes(kind: type[errors.OdinError]) -> None:
    error = kind("found x, expected y.", where="file:3", fix="Do this.")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.what, again.where, again.fix) == (kind, error.what, error.where, error.fix)
    assert str(again) == str(error)
