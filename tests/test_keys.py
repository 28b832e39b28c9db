"""Keys: both spellings, child keys, and the context that carries the running one."""

import contextvars
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idempotency.keys import (
    MAX_KEY_LENGTH,
    MAX_NAME_LENGTH,
    InvalidKey,
    child_key,
    current_key,
    current_scope_digest,
    derive_child_key,
    format_key,
    parse_key,
    running,
)

UUID = "8e03978e-40d5-43e8-bc93-6894a57f9324"
PRINTABLE = [chr(code) for code in range(0x20, 0x7F)]
TOKEN_CHARACTERS = [c for c in PRINTABLE if c not in ' ",;']

valid_keys = st.text(PRINTABLE, min_size=1, max_size=MAX_KEY_LENGTH)
names = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.~",
    min_size=1,
    max_size=MAX_NAME_LENGTH,
)


# The structured-field spelling


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (f'"{UUID}"', UUID),
        ('"hello world"', "hello world"),  # The example of RFC 9651, section 3.3.3.
        (r'"a \"quote\" and a \\"', 'a "quote" and a \\'),
        ('"a, b; c"', "a, b; c"),
        ('" "', " "),
        ('  "padded"  ', "padded"),
        ('"it\'s"', "it's"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_quoted_key_is_read_in_either_mode(header: str, key: str, strict: bool) -> None:
    assert parse_key(header, strict=strict) == key


@pytest.mark.parametrize(
    "parameters",
    [
        ";a",
        ";a;b",
        "; a=1",
        ";   a=1",
        ";*a=1",
        ";a-b_c.d*9=1",
        ";a=42",
        ";a=-999999999999999",
        ";a=4.5",
        ";a=-123456789012.345",
        ';a="x;y,z"',
        r';a="\"\\"',
        ';a=""',
        ";a=foo123/456",
        ";a=*tok:en!#$%&'+-.^_`|~",
        ";a=:cHJldGVuZCB0aGlzIGlzIGJpbmFyeSBjb250ZW50Lg==:",  # Section 3.3.5.
        ";a=:aGVsbG8:",  # Padding left out, which section 4.2.7 forgives.
        ";a=::",
        ";a=?1",
        ";a=?0",
        ";a=@1659578233",  # Section 3.3.7.
        ";a=@-1",
        ';a=%"This is intended for display to %c3%bc%73ers."',  # After section 3.3.8.
        ';a=%""',
        ";a;a",
        "".join(f";p{n}={n}" for n in range(200)),
    ],
)
def test_well_formed_parameters_of_every_type_are_ignored(parameters: str) -> None:
    assert parse_key(f'"k"{parameters}') == "k"


@pytest.mark.parametrize(
    "rest",
    [
        ";",
        "; ",
        ";;a",
        ";A=1",
        ";1=1",
        ";a=",
        ";a =1",
        ";a= 1",
        " ;a=1",
        ";a=1 ;b",
        ";\ta=1",
        ";a=1.",
        ";a=.1",
        ";a=1.2345",
        ";a=1234567890123.1",
        ";a=1234567890123456",
        ";a=--1",
        ";a=+1",
        ';a="open',
        r';a="\x"',
        ';a="é"',
        ";a=:aGVsb!8=:",
        ";a=:=aGVsbG8:",
        ";a=:a:",
        ";a=:aGVsbG8=",
        ";a=?2",
        ";a=?",
        ";a=@1.5",
        ";a=@",
        ';a=%"%C3%BC"',
        ';a=%"%c3"',
        ';a=%"%c"',
        ";a=%foo",
        ";a=(1 2)",
        ";a=[1]",
        "x",
        '"x"',
        " x",
        ";a\x00",
    ],
)
def test_anything_else_behind_a_quoted_key_is_invalid(rest: str) -> None:
    with pytest.raises(InvalidKey, match="follows the quoted key"):
        parse_key(f'"k"{rest}')


@pytest.mark.parametrize(
    "header",
    [
        '"',
        '"open',
        '"ends escaped\\"',
        r'"a\b"',
        r'"a\n"',
        '"tab\t"',
        '"new\nline"',
        '"\x00"',
        '"\x1f"',
        '"\x7f"',
        '"\x80"',
        '"ü"',
        '"\N{SNOWMAN}"',
    ],
)
def test_a_malformed_string_is_invalid(header: str) -> None:
    with pytest.raises(InvalidKey, match="quoted key has no closing quote"):
        parse_key(header)


# The bare spelling


@pytest.mark.parametrize("key", [UUID, "1", "?1", ":aGk=:", "a:b/c=d", "it's", "\\", "a" * 255])
def test_a_bare_token_is_the_key_itself(key: str) -> None:
    assert parse_key(key) == key
    assert parse_key(f"  {key}  ") == key


@pytest.mark.parametrize("character", PRINTABLE)
def test_a_bare_key_holds_any_printable_character_but_four(character: str) -> None:
    header = f"a{character}b"
    if character in ' ",;':
        with pytest.raises(InvalidKey):
            parse_key(header)
    else:
        assert parse_key(header) == header


@pytest.mark.parametrize(
    "header", ["a\x00b", "a\tb", "a\nb", "a\r\nb", "\x1fa", "a\x7f", "a\x80", "schlüssel", "ключ"]
)
def test_control_characters_and_non_ascii_are_invalid(header: str) -> None:
    with pytest.raises(InvalidKey, match="printable ASCII"):
        parse_key(header)


@pytest.mark.parametrize("header", [UUID, "k", "?1", ""])
def test_strict_refuses_bare_keys(header: str) -> None:
    with pytest.raises(InvalidKey):
        parse_key(header, strict=True)


# Both


@pytest.mark.parametrize("header", ["a,b", "a, b", '"a","b"', '"a", "b"', '"a";p=1 , "b"', ","])
def test_a_repeated_header_is_invalid_and_named(header: str) -> None:
    with pytest.raises(InvalidKey, match="Send the header once"):
        parse_key(header)


@pytest.mark.parametrize("header", ["", "   ", '""', '"";a=1'])
def test_an_empty_key_is_invalid(header: str) -> None:
    with pytest.raises(InvalidKey, match="The key is empty"):
        parse_key(header)


def test_the_length_counts_once_decoded() -> None:
    assert parse_key("k" * 255) == "k" * 255
    assert parse_key('"' + r"\"" * 255 + '"') == '"' * 255
    for header in ("k" * 256, '"' + "k" * 256 + '"', '"' + r"\\" * 256 + '"'):
        with pytest.raises(InvalidKey, match="The key has 256 characters"):
            parse_key(header)


@pytest.mark.parametrize("header", ["k" * 2049, " " * 2049, '"k";a="' + "x" * 2048 + '"'])
def test_an_overlong_header_is_refused_unread(header: str) -> None:
    with pytest.raises(InvalidKey, match="longer than 2048"):
        parse_key(header)


@pytest.mark.parametrize(
    "header",
    [
        '"' + "\\" * 2047,
        '"' + "a" * 2047,
        '"k"' + ";a" * 1022 + ",",
        '"k";' + " " * 2044,
        '"k";a=' + "1" * 2042,
        '"k";a=:' + "a" * 2041,
        '"k";a=%"' + "%c3" * 680,
        '"k";a="' + '\\"' * 1020,
    ],
)
def test_hostile_headers_cost_little(header: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidKey):
        parse_key(header)
    assert time.process_time() - started < 1  # A backtracking grammar takes minutes.


@settings(deadline=None)  # A busy machine is no fault of the code.
@given(st.text(max_size=40) | st.text('"\\;=, a1:?@%', max_size=40))
def test_any_text_is_a_key_or_an_invalid_key(header: str) -> None:
    try:
        key = parse_key(header)
    except InvalidKey:
        return
    assert parse_key(format_key(key)) == key


def test_the_message_does_not_repeat_the_key() -> None:
    for header in ("secret key", '"secret', '"secret" x', "secret,b", "secret" * 60):
        with pytest.raises(InvalidKey) as caught:
            parse_key(header)
        assert "secret" not in str(caught.value)


# format_key


@pytest.mark.parametrize(
    ("key", "header"),
    [
        (UUID, UUID),
        ("a b", '"a b"'),
        ("a,b", '"a,b"'),
        ("a;b", '"a;b"'),
        ('say "hi"', r'"say \"hi\""'),
        ('"', r'"\""'),
        ("\\", "\\"),
        ("a \\", r'"a \\"'),
    ],
)
def test_a_key_is_sent_bare_where_it_is_a_token_and_quoted_otherwise(key: str, header: str) -> None:
    assert format_key(key) == header


@settings(deadline=None)
@given(valid_keys)
def test_what_is_formatted_is_parsed_back(key: str) -> None:
    assert parse_key(format_key(key)) == key
    assert parse_key(format_key(key, strict=True), strict=True) == key


@pytest.mark.parametrize("key", ["", "k" * 256, "a\nb", "a\x7f", "ü", "\ud800"])
def test_what_is_no_key_is_not_sent(key: str) -> None:
    with pytest.raises(InvalidKey):
        format_key(key)


# derive_child_key


def test_a_child_is_parent_and_name() -> None:
    assert derive_child_key(UUID, "billing") == f"{UUID}-billing"


@pytest.mark.parametrize("name", ["", "a-b", "-", "a b", "a,b", 'a"', "ä", "a\n", "n" * 65])
def test_a_name_that_would_blur_the_split_is_refused(name: str) -> None:
    with pytest.raises(InvalidKey, match="child's name"):
        derive_child_key(UUID, name)


@pytest.mark.parametrize("parent", ["", "p" * 256, "ü", "a\nb"])
def test_a_parent_must_be_a_key(parent: str) -> None:
    with pytest.raises(InvalidKey):
        derive_child_key(parent, "billing")


def test_past_255_characters_the_parent_is_digested() -> None:
    longest = "p" * (255 - len("-billing"))
    assert derive_child_key(longest, "billing") == f"{longest}-billing"
    digest = hashlib.sha256(b"p" + longest.encode()).hexdigest()
    assert derive_child_key("p" + longest, "billing") == f"sha256:{digest}-billing"


def test_a_parent_that_looks_like_a_digest_cannot_pass_for_one() -> None:
    long_parent = "p" * 255
    forged = derive_child_key(long_parent, "billing").removesuffix("-billing")
    assert derive_child_key(forged, "billing") != derive_child_key(long_parent, "billing")


@settings(deadline=None)
@given(valid_keys, names, valid_keys, names)
def test_different_pairs_have_different_children(p1: str, n1: str, p2: str, n2: str) -> None:
    assert (derive_child_key(p1, n1) == derive_child_key(p2, n2)) == ((p1, n1) == (p2, n2))


#: Few characters and lengths around the limit, where plain and digested forms meet.
tight_parents = st.builds(
    lambda lead, tail: "p" * lead + tail,
    st.integers(0, 252),
    st.text("-ab", min_size=1, max_size=3),
)
tight_names = st.text("ab", min_size=1, max_size=3)


@settings(deadline=None)
@given(st.lists(st.tuples(tight_parents, tight_names), unique=True, max_size=40))
def test_children_of_neighbouring_keys_do_not_meet(pairs: list[tuple[str, str]]) -> None:
    assert len({derive_child_key(parent, name) for parent, name in pairs}) == len(pairs)


@settings(deadline=None)
@given(valid_keys, st.lists(names, min_size=1, max_size=12))
def test_a_child_is_a_key_and_may_have_children(key: str, generations: list[str]) -> None:
    for name in generations:
        key = derive_child_key(key, name)
        assert len(key) <= MAX_KEY_LENGTH
        assert key.rsplit("-", 1)[1] == name
        assert parse_key(format_key(key)) == key


# The running execution

ASKED: list[Callable[[], str]] = [current_key, current_scope_digest, lambda: child_key("billing")]


@pytest.mark.parametrize("ask", ASKED)
def test_where_nothing_runs_the_error_says_what_to_do(ask: Callable[[], str]) -> None:
    with pytest.raises(LookupError, match="Ask inside a protected handler"):
        ask()


def test_inside_an_execution_its_key_scope_and_children_are_known() -> None:
    with running(UUID, "scope"):
        assert current_key() == UUID
        assert current_scope_digest() == "scope"
        assert child_key("billing") == derive_child_key(UUID, "billing")


def test_a_nested_execution_gives_the_outer_one_back() -> None:
    with running("outer", "1"):
        with running("inner", "2"):
            assert (current_key(), current_scope_digest()) == ("inner", "2")
        assert (current_key(), current_scope_digest()) == ("outer", "1")
    with pytest.raises(LookupError):
        current_key()


def test_an_execution_that_raises_ends_too() -> None:
    with pytest.raises(ZeroDivisionError), running("k", "s"):
        1 / 0  # noqa: B018
    with pytest.raises(LookupError):
        current_key()


def test_executions_in_other_threads_are_not_seen() -> None:
    both_run = threading.Barrier(2, timeout=10)
    seen: dict[str, str] = {}

    def execute(key: str) -> None:
        with running(key, "s"):
            both_run.wait()
            seen[key] = current_key()
            both_run.wait()

    threads = [threading.Thread(target=execute, args=(key,)) for key in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": "a", "b": "b"}


def test_a_thread_sees_the_execution_only_in_a_copy_of_its_context() -> None:
    seen: list[str] = []

    def ask() -> None:
        try:
            seen.append(current_key())
        except LookupError:
            seen.append("none")

    with running("k", "s"):
        copied = contextvars.copy_context()
        for target in (lambda: contextvars.Context().run(ask), lambda: copied.run(ask)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen == ["none", "k"]


def test_the_module_needs_no_django() -> None:
    code = "import sys; sys.modules['django'] = None; import idempotency.keys"
    subprocess.run([sys.executable, "-c", code], check=True)
