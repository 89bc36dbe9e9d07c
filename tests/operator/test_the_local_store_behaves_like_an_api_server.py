"""The in-memory store: server-side apply, owners, watches, keeping."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedstudy_operator.cluster import Event, InvalidObjectError, Key, NotFoundError
from fedstudy_operator.local.fields import flatten, unflatten
from fedstudy_operator.local.store import LocalCluster


def config(name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "a"},
        "data": data,
    }


def owned(name: str, owner: dict[str, Any]) -> dict[str, Any]:
    obj = config(name)
    obj["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "v1",
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
        }
    ]
    return obj


async def test_an_apply_that_changes_nothing_writes_nothing() -> None:
    cluster = LocalCluster()
    first = await cluster.apply(config("x", a="1"), manager="m")
    second = await cluster.apply(config("x", a="1"), manager="m")
    third = await cluster.apply(config("x", a="1"), manager="other")
    assert first == second == third
    assert (await cluster.apply(config("x", a="2"), manager="m"))["metadata"]["generation"] == 2


async def test_a_manager_that_no_longer_wants_a_field_removes_it_and_nothing_else() -> None:
    cluster = LocalCluster()
    await cluster.apply(config("x", a="1", b="1"), manager="m")
    await cluster.apply(config("x", c="1"), manager="other")
    assert (await cluster.apply(config("x", a="1"), manager="m"))["data"] == {"a": "1", "c": "1"}


async def test_a_field_that_two_managers_want_stays_until_both_let_go() -> None:
    cluster = LocalCluster()
    await cluster.apply(config("x", a="1"), manager="m")
    await cluster.apply(config("x", a="1"), manager="other")
    assert (await cluster.apply(config("x"), manager="m"))["data"] == {"a": "1"}
    assert (await cluster.apply(config("x"), manager="other")).get("data", {}) == {}


async def test_a_change_by_force_takes_the_field_and_the_first_manager_takes_it_back() -> None:
    cluster = LocalCluster()
    await cluster.apply(config("x", a="1"), manager="m")
    assert (await cluster.apply(config("x", a="2"), manager="other"))["data"] == {"a": "2"}
    assert (await cluster.apply(config("x", a="1"), manager="m"))["data"] == {"a": "1"}


async def test_conditions_are_merged_by_type_and_keep_their_places() -> None:
    cluster = LocalCluster()
    await cluster.apply(config("x"), manager="m")
    key = Key("ConfigMap", "a", "x")
    await cluster.patch_status(key, {"conditions": [{"type": "A", "status": "True"}]}, manager="m")
    both = await cluster.patch_status(key, {"conditions": [{"type": "B", "status": "True"}]}, manager="n")
    assert [c["type"] for c in both["status"]["conditions"]] == ["A", "B"]
    assert both["metadata"]["generation"] == 1
    gone = await cluster.patch_status(key, {"conditions": []}, manager="m")
    assert [c["type"] for c in gone["status"]["conditions"]] == ["B"]


async def test_a_status_in_an_apply_is_not_written() -> None:
    cluster = LocalCluster()
    made = await cluster.apply({**config("x"), "status": {"a": 1}}, manager="m")
    assert "status" not in made


async def test_deleting_an_owner_deletes_all_below_it() -> None:
    cluster = LocalCluster()
    owner = await cluster.apply(config("owner"), manager="m")
    child = await cluster.apply(owned("child", owner), manager="m")
    await cluster.apply(owned("grandchild", child), manager="m")
    await cluster.delete(Key("ConfigMap", "a", "owner"), uid="another")
    assert len(await cluster.list("ConfigMap")) == 3
    await cluster.delete(Key("ConfigMap", "a", "owner"))
    assert await cluster.list("ConfigMap") == []
    await cluster.apply(owned("late", owner), manager="m")
    assert await cluster.list("ConfigMap") == []
    with pytest.raises(NotFoundError):
        await cluster.get(Key("ConfigMap", "a", "late"))


async def test_a_refused_object_leaves_the_store_as_it_was() -> None:
    def refuse(obj: dict[str, Any]) -> None:
        if obj.get("data", {}).get("a") == "bad":
            raise InvalidObjectError("data.a is bad")

    cluster = LocalCluster(validate=refuse)
    before = await cluster.apply(config("x", a="good"), manager="m")
    with pytest.raises(InvalidObjectError, match=r"data\.a"):
        await cluster.apply(config("x", a="bad"), manager="m")
    assert await cluster.get(Key("ConfigMap", "a", "x")) == before


async def test_every_watcher_sees_what_is_there_and_then_what_changes() -> None:
    cluster = LocalCluster()
    await cluster.apply(config("x", a="1"), manager="m")
    seen: dict[int, list[Event]] = {0: [], 1: []}

    async def read(index: int) -> None:
        async for event in cluster.watch("ConfigMap"):
            seen[index].append(event)
            if event.type == "DELETED":
                return

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for index in seen:
            group.create_task(read(index))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await cluster.apply(config("x", a="2"), manager="m")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await cluster.delete(Key("ConfigMap", "a", "x"))
    assert [[e.type for e in events] for events in seen.values()] == [["ADDED", "MODIFIED", "DELETED"]] * 2


async def test_a_slow_watcher_gets_the_latest_of_each_object_and_each_life() -> None:
    cluster = LocalCluster()
    stream = cluster.watch("ConfigMap")
    await cluster.apply(config("first"), manager="m")
    assert (await anext(stream)).object["metadata"]["name"] == "first"
    for value in range(1000):
        await cluster.apply(config("x", a=str(value)), manager="m")
    await cluster.delete(Key("ConfigMap", "a", "x"))
    await cluster.apply(config("x", a="new"), manager="m")
    events = [await anext(stream), await anext(stream)]
    assert [e.type for e in events] == ["DELETED", "ADDED"]
    assert events[1].object["data"] == {"a": "new"}
    await stream.aclose()  # type: ignore[attr-defined]


async def test_what_is_saved_is_loaded_with_its_owners_and_managers(tmp_path: Path) -> None:
    cluster = LocalCluster()
    owner = await cluster.apply(config("owner", a="1"), manager="m")
    await cluster.apply(owned("child", owner), manager="m")
    await cluster.patch_status(Key("ConfigMap", "a", "owner"), {"conditions": [{"type": "A"}]}, manager="m")
    cluster.save(tmp_path)
    assert (tmp_path / "objects.json").stat().st_mode & 0o077 == 0
    other = LocalCluster()
    other.load(tmp_path)
    assert await other.list("ConfigMap") == await cluster.list("ConfigMap")
    assert (await other.apply(config("owner"), manager="m")).get("data", {}) == {}
    await other.delete(Key("ConfigMap", "a", "owner"))
    assert await other.list("ConfigMap") == []


async def test_labels_and_namespaces_select() -> None:
    cluster = LocalCluster()
    labelled = config("x")
    labelled["metadata"]["labels"] = {"k": "v"}
    await cluster.apply(labelled, manager="m")
    await cluster.apply(config("y"), manager="m")
    assert [o["metadata"]["name"] for o in await cluster.list("ConfigMap", labels={"k": "v"})] == ["x"]
    assert await cluster.list("ConfigMap", "elsewhere") == []


_names = st.text("abc", min_size=1, max_size=2)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(_names | st.sampled_from(["conditions", "env"]), _values, max_size=4))
def test_flattening_loses_nothing(obj: dict[str, Any]) -> None:
    assert unflatten(flatten(obj)) == obj


async def test_what_is_made_once_stays_as_others_have_changed_it() -> None:
    cluster = LocalCluster()
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "trainer", "namespace": "a"},
        "spec": {"suspend": True},
    }  # fmt: skip
    await cluster.make(job, manager="operator")
    await cluster.apply({**job, "spec": {"suspend": False}}, manager="kueue")
    await cluster.make(job, manager="operator")
    assert (await cluster.get(Key("Job", "a", "trainer")))["spec"]["suspend"] is False
