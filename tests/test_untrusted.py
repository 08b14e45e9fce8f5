"""What stands in a stranger's files is shown and never run: in a terminal, a spreadsheet, a card, a page."""
import csv
import io
import json
import re

import pytest
from markdown_it import MarkdownIt

from clfm_kit import Classifier, load_data
from clfm_kit.classifier.card import block, code, escaped
from clfm_kit.cli.options import show
from clfm_kit.data.fields import read_label
from clfm_kit.data.files import records_of
from clfm_kit.data.writing import FORMULAS, is_formula, write_records
from clfm_kit.data.report import DataWarning
from clfm_kit.display.html import join, markup, table
from clfm_kit.display.highlights import Highlighted
from clfm_kit.display.tables import Table
from clfm_kit.errors import HIDDEN, UserError, visible
from command import clfm, refused
from hypothesis import given
from hypothesis import strategies as st

COMMANDS = "\x1b]52;c;QQ==\x07", "\x9b2J", "\u202eabc\u2066", "\x1b[31m", "a\rb", "\x00", "\u2028"


@pytest.mark.parametrize("text", COMMANDS)
@pytest.mark.parametrize("as_json", [False, True])
def test_no_text_commands_a_terminal(text, as_json, capsys):
    table = Table(text, [text], [[text]])
    spans = Highlighted(text, answers={text: text})
    show({text: [text]}, as_json, table, spans, text)
    print(table, spans, UserError(f"{text} stands there"), sep="\n")
    said = capsys.readouterr().out
    assert not HIDDEN.search(said)
    if as_json: assert json.loads(said[:said.index("}") + 1]) == {text: [text]}


@given(st.text())
def test_a_cell_that_is_written_is_no_formula(text):
    file = io.StringIO()
    quoted = write_records([{"text": text}], file, "csv")
    cells = list(csv.reader(io.StringIO(file.getvalue(), newline="")))[1:]
    assert quoted == (text.startswith(("=", "+", "-", "@", "\t", "\r")) and not re.fullmatch(r"[+-][0-9.,]+", text))
    if text: assert not is_formula(cells[0][0]) and cells == [["'" * quoted + text]]


@given(st.text())
def test_other_programs_get_the_cell_as_it_is(text):
    file = io.StringIO()
    assert write_records([{"text": text}], file, "csv", FORMULAS[1]) == 0
    if text: assert list(csv.reader(io.StringIO(file.getvalue(), newline="")))[1:] == [[text]]


@pytest.mark.parametrize("line, words", [
    ('{"text": "a", "label": "x", "label": "y"}', "'label' stands twice"),
    ('{"text": "a", "label": ' + "[" * 100_000 + "]" * 100_000 + "}", "broken JSON"),
])
def test_a_row_that_says_two_things(line, words, tmp_path):
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(UserError, match=words): list(records_of(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("label", [[["a"], ["b"]], '[["a"], ["b"]]', [("a",)], "[" * 100_000 + "]" * 100_000])
def test_lists_of_lists_are_no_labels(label):
    with pytest.raises(UserError, match="row 3: field 'label' is"): read_label(label, "label", "row 3")


HOSTILE = st.text() | st.text("`*_[]()#<>|&!-~\\ \n\tax")


@given(HOSTILE)
def test_a_name_in_a_card_stays_a_name(text):
    begin, name, *_, end = MarkdownIt().parse(f"Base {code(text)}, {escaped(text)}.\n\n{block(text, 'yaml')}\n\nend")
    assert (begin.type, end.type) == ("paragraph_open", "paragraph_close")
    kinds = [child.type for child in name.children]
    assert kinds[:2] == ["text", "code_inline"] and {*kinds[2:]} <= {"text"}
    assert name.children[1].content.strip() == visible(text).replace("\n", " ").strip()


def test_labels_that_look_the_same_are_told_apart_in_the_warning(tiny):
    texts = load_data("helpdesk").train.texts[:20]
    clf = Classifier("probe", tiny, cache=None)
    with pytest.warns(DataWarning, match=r"labels 'pay', 'pay\\u200b' look like spellings of one"):
        clf.fit(texts, ["pay", "pay\u200b"] * 10)


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_the_name_of_a_column_is_no_formula(form):
    file, name = io.StringIO(), '=HYPERLINK("https://example.org")'
    assert write_records([{name: "-2", "text": "=1"}], file, form) == 2
    rows = list(csv.reader(io.StringIO(file.getvalue(), newline=""), delimiter="\t" if form == "tsv" else ","))
    assert rows == [[f"'{name}", "text"], ["-2", "'=1"]]
    file = io.StringIO()
    assert write_records([{name: "a"}], file, form, FORMULAS[1]) == 0 and name in next(csv.reader(
        io.StringIO(file.getvalue(), newline=""), delimiter="\t" if form == "tsv" else ","
    ))


@pytest.mark.parametrize("text", [*COMMANDS, "pay\u200b", "\ufeffpay", "\u2060"])
def test_no_text_hides_or_turns_what_a_page_shows(text):
    shown = markup("<p>{} {a}</p>", text, a=text) + join([text, text]) + table([text], [[text]], text)
    assert not HIDDEN.search(shown) and HIDDEN.search(text)


def test_a_label_of_two_lines_is_one_label(capsys):
    show({}, False, Table("labels", ["label"], [["pay\nrefund"], ["cancel"]]))
    assert "pay\\nrefund" in capsys.readouterr().out


def test_a_command_that_is_suggested_is_one_command(tmp_path):
    path = tmp_path / "a; touch b.csv"
    path.write_bytes(b"text,label\n\x93a,x\n")
    with pytest.raises(UserError, match="iconv -f cp1252 -t utf-8 'a; touch b.csv'$"): list(records_of(path))


PATHS = "n" * 300, "n" * 5000, "~nobody-here/a", "a\0b", "./" + "n" * 300 + ".csv"
COMMANDS_WITH_A_PATH = {
    "data": ("fit", "--recipe", "probe", "--out", "out", "--data"),
    "out": ("fit", "--recipe", "probe", "--data", "helpdesk", "--out"),
    "model": ("fit", "--recipe", "probe", "--data", "helpdesk", "--out", "out", "--model"),
    "strangers": (
        "fit", "--recipe", "probe", "--data", "helpdesk", "--out", "out", "--reject", "energy", "--out-of-scope"
    ),
    "checkpoints": ("fit", "--recipe", "finetune", "--data", "helpdesk", "--out", "out", "--checkpoints"),
    "predict": ("predict",), "evaluate": ("evaluate", "--data", "helpdesk"), "explain": ("explain",),
    "export": ("export", "--out", "out"), "errors": ("errors", "--data", "helpdesk"),
    "compare": ("compare", "probe", "--data", "helpdesk"),
    "recipe": ("fit", "--data", "helpdesk", "--out", "out", "--recipe"),
}


@pytest.mark.parametrize("name", COMMANDS_WITH_A_PATH)
def test_what_is_no_path_is_told_so(name, tiny, tmp_path):
    words, base = COMMANDS_WITH_A_PATH[name], ["--model", tiny] if name in ("checkpoints", "out", "strangers") else []
    for path in PATHS: refused(clfm(*words, path, *["a text"] * (name in ("predict", "explain")), *base, cwd=tmp_path))
    assert not list(tmp_path.iterdir())
