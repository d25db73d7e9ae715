"""Transition tables: allowed and forbidden transitions, and the past events in the error."""

from __future__ import annotations

from enum import Enum

import pytest

from asr_process.states import STORY_EVENTS_MAX, ForbiddenTransition, StateMachine, TransitionTable


class Light(Enum):
    RED = "red"
    GREEN = "green"
    BROKEN = "broken"


class Event(Enum):
    SWITCH = "switch"
    HIT = "hit"


TABLE = TransitionTable(
    "light",
    Light.RED,
    {
        Light.RED: {Event.SWITCH: Light.GREEN, Event.HIT: Light.BROKEN},
        Light.GREEN: {Event.SWITCH: Light.RED, Event.HIT: Light.BROKEN},
    },
)


def test_events_lead_from_state_to_state() -> None:
    light = StateMachine(TABLE)
    assert light.state is Light.RED
    assert light.fire(Event.SWITCH, 1.0) is Light.GREEN
    assert light.fire(Event.SWITCH, 2.0) is Light.RED
    assert light.state is Light.RED


def test_a_forbidden_transition_raises_with_the_story_and_changes_nothing() -> None:
    light = StateMachine(TABLE)
    light.fire(Event.SWITCH, 1.0)
    light.fire(Event.HIT, 2.5)
    with pytest.raises(ForbiddenTransition) as raised:
        light.fire(Event.SWITCH, 3.0)
    assert str(raised.value) == (
        "light: switch is not allowed in state broken; before: 1.000 red switch, 2.500 green hit"
    )
    assert light.state is Light.BROKEN


def test_the_first_event_has_no_story() -> None:
    table = TransitionTable("still", Light.RED, {Light.RED: {}})
    with pytest.raises(ForbiddenTransition, match="nothing happened before"):
        StateMachine[Light, Event](table).fire(Event.HIT, 0.0)


def test_can_asks_the_table_only() -> None:
    light = StateMachine(TABLE)
    assert light.can(Event.HIT)
    light.fire(Event.HIT, 0.0)
    assert not light.can(Event.HIT)
    assert light.state is Light.BROKEN


def test_the_story_keeps_the_last_events_only() -> None:
    light = StateMachine(TABLE)
    for second in range(STORY_EVENTS_MAX + 3):
        light.fire(Event.SWITCH, float(second))
    assert light.story().count(",") == STORY_EVENTS_MAX - 1
    assert light.story().startswith("before: 3.000 ")


def test_the_diagram_shows_every_transition_and_the_ends() -> None:
    assert TABLE.mermaid().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> red",
        "    red --> green: switch",
        "    red --> broken: hit",
        "    green --> red: switch",
        "    green --> broken: hit",
        "    broken --> [*]",
    ]
