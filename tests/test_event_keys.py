"""The key of an event, out of the arguments of the call that delivers it."""

import uuid
from collections import defaultdict
from enum import Enum
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from idempotency.event_keys import checked_key, key_reader
from idempotency.policy import Policy

TERMS = Policy().resolve()


class Kind(str, Enum):  # noqa: UP042 - what shows itself as another text
    PAID = "paid"


class Number(int, Enum):
    ONE = 1


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("a b", "a b"),
        (0, "0"),
        (-7, "-7"),
        (Kind.PAID, "paid"),
        (Number.ONE, "1"),
        ("x" * 255,) * 2,
    ],
)
def test_keys_are_text_and_whole_numbers(key, text):
    assert checked_key("any", key, TERMS) == text
    assert type(checked_key("any", key, TERMS)) is str


SECRET = "5ecret"


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        SECRET * 50,
        f"{SECRET}\n",
        f"{SECRET}é",
        f"{SECRET}\x00",
        SECRET.encode(),
        [SECRET],
        {"id": SECRET},
        1.0,
        True,
        10**5000,
        uuid.uuid4(),
    ],
    ids=lambda key: type(key).__name__,
)
def test_an_unusable_key_is_refused_and_never_quoted(key):
    with pytest.raises(ValueError, match="payment-received") as refused:
        checked_key("payment-received", key, TERMS)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(
    ("path", "event"),
    [
        ("event.id", {}),
        ("event.id", None),
        ("event.id", "text"),
        ("event.ids.1", {"ids": ["one"]}),
        ("event.ids.0", {"ids": "text, whose first letter is no key"}),
        ("event.ids.-1", {"ids": ["one"]}),
        ("event.items", {}),
        ("event.id.x", SimpleNamespace(id="a")),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_by_its_name(path, event):
    def consume(event): ...

    read = key_reader("payment-received", path, consume)
    with pytest.raises(ValueError, match=f"'payment-received'.*'{path}'"):
        read((event,), {})


def test_looking_changes_no_event():
    event: dict[str, str] = defaultdict(str)
    with pytest.raises(ValueError, match="no 'id'"):
        key_reader("any", "event.id", lambda event: None)((event,), {})
    assert not event


#: A busy machine is no fault of the code.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

names = st.text(min_size=1, max_size=8).map(lambda name: name.replace(".", "_"))
attributes = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
keys = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255)


@st.composite
def events_with_a_path(draw):
    """A key at the end of a way through mappings, lists, tuples and attributes, among others."""
    key = draw(keys | st.integers(-(10**200), 10**200))
    value, path = key, list[str]()
    for _ in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["mapping", "list", "tuple", "attribute"]))
        if kind == "mapping":
            name = draw(names)
            value = {**draw(st.dictionaries(names, st.integers(), max_size=3)), name: value}
        elif kind == "attribute":
            name = draw(attributes)
            value = SimpleNamespace(**{name: value})
        else:
            before = draw(st.lists(st.integers(), max_size=3))
            name = str(len(before))
            value = [*before, value, *draw(st.lists(st.integers(), max_size=2))]
            value = tuple(value) if kind == "tuple" else value
        path.insert(0, name)
    return key, value, path


@unhurried
@given(
    found=events_with_a_path(), others=st.lists(st.integers(), max_size=2), style=st.integers(0, 2)
)
@example(found=("k", {"items": ["k"]}, ["items", "0"]), others=[], style=0)
def test_a_path_finds_its_key_however_the_event_is_passed(found, others, style):
    key, event, path = found

    def positional(first, event, *rest, **options): ...
    def keyword(first, *, event, other=None): ...
    def only(first, event="default", /, *rest): ...

    function, args, kwargs = [
        (positional, (None, event, *others), {"x": 1}),
        (keyword, (None,), {"event": event}),
        (only, (None, event, *others), {}),
    ][style]
    read = key_reader("any", ".".join(["event", *path]), function)
    assert read(args, kwargs) == key
    text = checked_key("any", read(args, kwargs), TERMS)
    assert text == str(key)


@unhurried
@given(
    path=st.text(max_size=30),
    event=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
)
def test_no_path_and_no_event_end_in_anything_but_a_key_or_a_value_error(path, event):
    def consume(event): ...

    read = key_reader("any", f"event.{path}", consume) if path and ".." not in f".{path}." else None
    if read is None:
        with pytest.raises(ValueError, match="no dotted path"):
            key_reader("any", f"event.{path}", consume)
        return
    try:
        text = checked_key("any", read((event,), {}), TERMS)
    except ValueError:
        return
    assert 1 <= len(text) <= 255
    assert text.isascii()
    assert text.isprintable()
