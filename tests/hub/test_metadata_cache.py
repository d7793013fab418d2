"""The cache of what was asked of the Hub: it keeps, ages and doubts its answers, and mixes none up."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_slm.hub.metadata_cache import DAY, Key, MetadataCache

NOW = 1_800_000_000.0
words = st.text(max_size=20)
keys = st.builds(Key, words, words, words, words, words)
values = st.dictionaries(words, st.recursive(st.none() | st.booleans() | st.integers() | words, st.lists, max_leaves=5))


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@contextmanager
def cache_at(clock: Clock, lifetime: float = DAY) -> Iterator[MetadataCache]:
    with tempfile.TemporaryDirectory() as folder:
        yield MetadataCache(Path(folder) / "cache", lifetime=lifetime, clock=clock)


@given(keys, values)
def test_an_answer_outlives_the_process(key: Key, value: dict[str, object]) -> None:
    with cache_at(Clock()) as cache:
        assert cache.get(key) is None
        cache.put(key, value)
        found = MetadataCache(cache.folder, clock=Clock()).get(key)
        assert found is not None
        assert (found.value, found.fetched_at, found.fresh) == (value, NOW, True)


@given(keys, values, st.floats(1, 1e7), st.floats(0, 1e8))
def test_an_answer_is_fresh_for_its_lifetime_and_kept_beyond_it(
    key: Key, value: dict[str, object], lifetime: float, age: float
) -> None:
    clock = Clock()
    with cache_at(clock, lifetime) as cache:
        cache.put(key, value)
        clock.now = NOW + age
        found = cache.get(key)
        assert found is not None
        assert found.value == value
        assert found.fresh == (clock.now - NOW < lifetime)


@given(keys, values, st.floats(1, 1e8))
def test_an_answer_from_the_future_is_kept_and_not_trusted(key: Key, value: dict[str, object], back: float) -> None:
    clock = Clock()
    with cache_at(clock) as cache:
        cache.put(key, value)
        clock.now = NOW - back
        found = cache.get(key)
        assert found is not None
        assert not found.fresh
        cache.put(key, {"newer": True})
        again = cache.get(key)
        assert again is not None
        assert (again.value, again.fresh) == ({"newer": True}, True)


@given(st.lists(st.tuples(keys, values), max_size=8))
def test_answers_are_independent(entries: list[tuple[Key, dict[str, object]]]) -> None:
    with cache_at(Clock()) as cache:
        for key, value in entries:
            cache.put(key, value)
        for key, value in dict(entries).items():
            found = cache.get(key)
            assert found is not None
            assert found.value == value


@given(keys, values, st.sampled_from(["endpoint", "kind", "repo_id", "revision", "user"]), words)
def test_every_part_of_the_key_counts(key: Key, value: dict[str, object], part: str, other: str) -> None:
    changed = replace(key, **{part: getattr(key, part) + "x" + other})
    with cache_at(Clock()) as cache:
        cache.put(key, value)
        assert cache.get(changed) is None


@given(keys, values, st.data())
def test_a_damaged_answer_is_set_aside(key: Key, value: dict[str, object], data: st.DataObject) -> None:
    with cache_at(Clock()) as cache:
        cache.put(key, value)
        (file,) = cache.folder.glob("*.json")
        content = file.read_bytes()
        start = data.draw(st.integers(0, len(content) - 1))
        noise = data.draw(st.binary(max_size=5))
        file.write_bytes(content[:start] + noise)
        found = cache.get(key)
        if found is None:
            assert [path.suffix for path in cache.folder.iterdir()] == [".bad"]
        else:  # the noise was what stood there
            assert found.value == value
        cache.put(key, value)
        again = cache.get(key)
        assert again is not None
        assert again.value == value


@pytest.mark.parametrize("change", ["value", "fetched_at", "key", "version", "sha256"])
def test_an_answer_that_was_tampered_with_is_set_aside(tmp_path: Path, change: str) -> None:
    cache = MetadataCache(tmp_path, clock=Clock())
    key = Key("https://huggingface.co", "model", "a/b", "main", "stranger")
    cache.put(key, {"license": "mit"})
    (file,) = tmp_path.glob("*.json")
    entry = json.loads(file.read_text())
    other = {"value": {"license": "other"}, "fetched_at": "yesterday", "key": {}, "version": 2, "sha256": "0"}
    file.write_text(json.dumps({**entry, change: other[change]}))
    assert cache.get(key) is None
    assert list(tmp_path.glob("*.bad"))


def test_answers_are_for_their_owner_alone_and_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = MetadataCache(tmp_path / "cache", clock=Clock())
    key = Key("https://huggingface.co", "model", "a/b", "main", "stranger")
    cache.put(key, {"license": "mit"})
    (file,) = cache.folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        cache.put(key, {"license": "other"})
    assert list(cache.folder.iterdir()) == [file]
    found = cache.get(key)
    assert found is not None
    assert found.value == {"license": "mit"}
