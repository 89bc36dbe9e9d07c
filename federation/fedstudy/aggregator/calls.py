"""When the sites' streams have to be woken."""

from __future__ import annotations

from fedstudy.aggregator.state import Stage, State


def asks_anew(before: State, after: State) -> bool:
    """Whether a stream may have to say something new. An answer alone does not, or 256 sites would wake for each other's."""

    def seen(stage: Stage | None) -> object:
        return stage and (stage.id, stage.sites, stage.missing, stage.closing)

    return (before.owed, before.sites, before.finish, seen(before.stage)) != (
        after.owed,
        after.sites,
        after.finish,
        seen(after.stage),
    )
