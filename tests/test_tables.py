"""Tables in a terminal: whatever its width, no word is cut."""
import json
import re

import pytest
from clfm_kit import compare
from clfm_kit.cli.options import drawn
from clfm_kit.display.tables import Table
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from command import clfm

WORD = st.text("abcdefgh.-%ä漢", min_size=1, max_size=10)
CELL = st.lists(WORD, min_size=1, max_size=8).map(" ".join)


def printed(shown, width) -> str:
    console = Console(width=width)
    with console.capture() as said: console.print(drawn(shown))
    return said.get()


def words(text) -> list: return re.findall(r"[^\s│┃┌┐└┘├┤┬┴┼─━┏┓┡┩╇┳]+", text)


@given(st.integers(1, 9).flatmap(lambda wide: st.lists(
    st.lists(CELL, min_size=wide, max_size=wide), min_size=2, max_size=5
)), st.integers(60, 120))
def test_every_word_of_a_table_is_whole_and_no_line_too_long(rows, width):
    said = printed(Table("a table", rows[0], rows[1:]), width)
    lines = said.splitlines()
    assert {word for row in rows for cell in row for word in cell.split()} <= {*words(said)}
    assert all(Console().measure(line).maximum <= width for line in lines)


def test_a_word_longer_than_the_terminal_is_folded_and_not_lost():
    said = printed(Table("", ["name", "figure"], [["a name that is much longer than this", "x" * 200]]), 40)
    assert said.count("x") == 200 and {*"a name that is much longer than this".split()} <= {*words(said)}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_command_cuts_a_word(width, tiny):
    env = {"COLUMNS": str(width)}
    said = {*words(clfm("plugins", env=env).stdout)}
    facts = json.loads(clfm("plugins", "--json").stdout)
    assert {word for part in facts["parts"] for text in part.values() for word in text.split()} <= said
    said = {*words(clfm("recipes", env=env).stdout)}
    found = json.loads(clfm("recipes", "--json").stdout)
    assert {*found} | {word for recipe in found.values() for word in recipe["about"].split()} <= said
    said = clfm("plan", "--recipe", "probe", "--model", tiny, env=env).stdout
    assert "memory at the peak" in " ".join(words(said))


def test_figures_of_a_comparison_are_whole(tiny):
    rows = [(f"the {thing} is {word}", word) for thing in "abcdefghijklmno" for word in ("good", "bad")]
    asked = [(f"{text}, they say", label) for text, label in rows]
    found = compare(["probe"], dict(train=rows, test=asked), tiny)
    cells = [cell for table in found.tables() for row in (table.head, *table.rows) for cell in row]
    wanted = {word for cell in cells for word in str(cell).split()}
    for width in (60, 80, 120): assert wanted <= {*words(printed(found, width))}
