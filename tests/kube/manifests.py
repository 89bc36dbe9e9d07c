"""Manifests that nobody would write: a valid one, changed at random places by what its definition says of them, and by what it does not."""

from __future__ import annotations

import copy
import random
from typing import Any

from fedstudy_operator.cluster import Object

TEXTS = (
    "", " ", "a", "A b", "x" * 300, "ä̈\u202e\u0000"[:3], "-1", "0", "0.5", "1e400", "NaN", "../../etc/passwd", "{{ x }}",
    "DUO:0000007", "1h", "P1Y", "2026-11-26T00:00:00Z", "sha256:" + "0" * 64, "north", "example.org:443", "[::1]:1",
)  # fmt: skip
NUMBERS = (-1, 0, 1, 2, 3, 255, 2**31, 2**53, 2**63 - 1, 0.1, 1e308, -0.0)
STRANGE: tuple[Any, ...] = (None, True, False, [], {}, "text", 7, -2.5, [None], {"": ""})
DEPTH = 6


def mutated(base: Object, schema: dict[str, Any], chance: random.Random) -> Object:
    """A copy of a manifest with one to four changes of its spec.

    Args:
        base: a valid manifest.
        schema: of the whole object, as its definition has it.
        chance: where all randomness comes from.
    """
    made = copy.deepcopy(base)
    for _ in range(chance.randint(1, 4)):
        _change(made, "spec", schema["properties"]["spec"], chance)
    return made


def value(schema: dict[str, Any], chance: random.Random, depth: int = 0) -> Any:
    """A value such as a schema asks for; seldom another one."""
    if chance.random() < 0.03:
        return copy.deepcopy(chance.choice(STRANGE))
    if "enum" in schema:
        return chance.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return _fields(schema, chance, depth)
        case "array":
            most = 0 if depth > DEPTH else min(int(schema.get("maxItems", 3)), 3)
            items = [value(schema["items"], chance, depth + 1) for _ in range(chance.randint(0, most))]
            return items + items[:1] if chance.random() < 0.1 else items
        case "integer" | "number":
            low, high = schema.get("minimum", -3), schema.get("maximum", 100)
            number: Any = chance.choice([low, high, chance.uniform(low, high), *NUMBERS])
            return int(number) if schema["type"] == "integer" else number
        case "boolean":
            return chance.random() < 0.5
        case _:
            return chance.choice([schema["default"]] if "default" in schema else TEXTS)


def _fields(schema: dict[str, Any], chance: random.Random, depth: int) -> Object:
    known = schema.get("properties", {})
    required = set(schema.get("required", ()))
    if not known:
        inner = schema.get("additionalProperties")
        inner = inner if isinstance(inner, dict) else {"type": "string"}
        return {chance.choice(TEXTS): value(inner, chance, depth + 1) for _ in range(chance.randint(0, 2))}
    wanted = [name for name in known if name in required or (depth < DEPTH and chance.random() < 0.3)]
    return {name: value(known[name], chance, depth + 1) for name in wanted}


def _change(holder: Any, place: Any, schema: dict[str, Any], chance: random.Random) -> None:
    """Go down to a place by chance, and put something else there, or nothing."""
    here = holder[place]
    known = schema.get("properties", {})
    if isinstance(here, dict) and known and chance.random() < 0.85:
        name = chance.choice(list(known))
        if name in here:
            return _change(here, name, known[name], chance)
        here[name] = value(known[name], chance)
        return None
    if isinstance(here, list) and here and "items" in schema and chance.random() < 0.7:
        return _change(here, chance.randrange(len(here)), schema["items"], chance)
    if isinstance(holder, dict) and place != "spec" and chance.random() < 0.2:
        del holder[place]
    else:
        holder[place] = value(schema, chance)
    return None
