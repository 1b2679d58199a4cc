"""Whatever users meet, they can import and name in their own annotations."""

import inspect
import typing
from collections.abc import Iterator
from enum import Enum

import pytest

import otel_sessions

PUBLIC = [getattr(otel_sessions, name) for name in otel_sessions.__all__]
CALLABLE = [thing for thing in PUBLIC if inspect.isclass(thing) or inspect.isfunction(thing)]

OF_THE_MANAGER = (
    *(f"{kind}.__init__" for kind in ("Session", "Hold", "Holder", "Pin", "Reservation")),
    "Reservation.taken",
)
"""Who makes these values; users get them."""


def met(annotation: object) -> Iterator[type]:
    """Return the classes of this package that an annotation names."""
    if isinstance(annotation, type) and annotation.__module__.startswith("otel_sessions"):
        yield annotation
    if isinstance(annotation, Enum):
        yield type(annotation)
    for part in typing.get_args(annotation):
        if isinstance(part, list):
            part = typing.Union[tuple(part)] if part else None  # noqa: UP007  # a callable's parameters
        yield from met(part)
    if origin := typing.get_origin(annotation):
        yield from met(origin)


def functions(thing: object) -> Iterator[object]:
    if inspect.isfunction(thing):
        yield thing
        return
    for name, member in inspect.getmembers(thing):
        if not name.startswith("_") or name in ("__init__", "__enter__", "__aenter__"):
            member = member.fget if isinstance(member, property) else member
            if inspect.isfunction(member) or inspect.ismethod(member):
                yield member


@pytest.mark.parametrize("thing", CALLABLE, ids=lambda thing: thing.__name__)
def test_all_that_a_public_method_takes_or_returns_can_be_imported(thing: object) -> None:
    for function in functions(thing):
        if getattr(function, "__qualname__", "") in OF_THE_MANAGER:
            continue
        for annotation in typing.get_type_hints(function).values():
            for kind in met(annotation):
                assert kind.__name__ in otel_sessions.__all__, f"{function} names {kind}"


def test_the_list_of_public_names_is_in_order_and_true() -> None:
    assert sorted(set(otel_sessions.__all__)) == sorted(otel_sessions.__all__)
    assert all(hasattr(otel_sessions, name) for name in otel_sessions.__all__)
    assert set(otel_sessions.__all__) <= set(dir(otel_sessions))


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    assert not hasattr(otel_sessions, "SessionManger")
