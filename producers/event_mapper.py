"""From a row of a log to its user events."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from producers.mapping import ActionRule, ActionTable, Mapping
from producers.row_readers import Columns, Row, condition_reader, id_reader, number_reader
from schemas.errors import BadRecord
from schemas.ids import hashed_id
from schemas.records import Action, UserEvent

__all__ = ["EventMapper", "event_mapper"]

#: From (line, event time in Unix ms, row) to the row's events, in the order of the mapping's rules; none where dropped.
EventMapper = Callable[[int, int, Row], list[UserEvent]]

_Number = Callable[[Row], float | None]
_Actions = Callable[[Row], Sequence[tuple[Action, _Number]]]


def event_mapper(mapping: Mapping, columns: Columns) -> EventMapper:
    """The function that a mapping declares; it raises BadRecord on a row that breaks its promise.

    An event's id is the hash of data set, line and action, or of its own content where exact repeats are one event.
    """
    spec = mapping.events
    drops = [condition_reader(each, columns) for each in spec.drop]
    user_of, item_of = id_reader(spec.user, columns), id_reader(spec.item, columns)
    category = None if spec.category is None or spec.category == "items" else spec.category
    category_of = id_reader(category, columns) if category else None
    category_at = columns.place(category.column) if category and category.column else None
    actions_of = _actions(spec.actions, number_reader(spec.value, columns), columns)
    by_content, name = spec.event_id == "content", mapping.name

    def events(line: int, at_ms: int, row: Row) -> list[UserEvent]:
        for drop in drops:
            if drop(row):
                return []
        user, original_user = user_of(row)
        item, original_item = item_of(row)
        known = category_of is not None and (category_at is None or row[category_at])
        category_id = category_of(row)[0] if known and category_of else None
        found: list[UserEvent] = []
        for action, value_of in actions_of(row):
            value = value_of(row)
            identity = (
                f"{name}:{user}:{item}:{at_ms}:{action}:{category_id}:{value}"
                if by_content
                else f"{name}:{line}:{action}"
            )
            found.append(
                {
                    "event_id": hashed_id(identity),
                    "user_id": user,
                    "item_id": item,
                    "event_time_ms": at_ms,
                    "action": action,
                    "category_id": category_id,
                    "value": value,
                    "original_user_id": original_user,
                    "original_item_id": original_item,
                }
            )
        return found

    return events


def _actions(table: ActionTable, value: _Number, columns: Columns) -> _Actions:
    """What a row means, as (action, how to read its value)."""
    if table.column is not None:
        return _by_value(table, value, columns)
    rules = [_rule(each, value, columns) for each in table.rules]
    if len(rules) == 1 and rules[0][0] is None:
        always = (rules[0][1],)
        return lambda row: always
    if table.mode == "each":
        return lambda row: [meaning for holds, meaning in rules if holds is None or holds(row)]

    def first(row: Row) -> Sequence[tuple[Action, _Number]]:
        for holds, meaning in rules:
            if holds is None or holds(row):
                return (meaning,)
        raise BadRecord("no_action", "no rule of events.actions.first holds")

    return first


def _rule(
    rule: ActionRule, value: _Number, columns: Columns
) -> tuple[Callable[[Row], bool] | None, tuple[Action, _Number]]:
    holds = condition_reader(rule.when, columns) if rule.when else None
    return holds, (rule.action, number_reader(rule.value, columns) if rule.value else value)


def _by_value(table: ActionTable, value: _Number, columns: Columns) -> _Actions:
    assert table.column is not None and table.by_value is not None
    at, column = columns.place(table.column), table.column
    meanings = {text: ((rule.action, value),) for text, rule in table.by_value.items()}
    otherwise = ((table.rules[0].action, value),) if table.rules else None

    def look_up(row: Row) -> Sequence[tuple[Action, _Number]]:
        found = meanings.get(row[at], otherwise)
        if found is None:
            raise BadRecord("unknown_action", f"{column}={row[at]!r} is not in events.actions.map")
        return found

    return look_up
