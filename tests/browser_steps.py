"""What the browser tests do in a browser, one function a notebook, and one for the page of `clfm serve`.

Run by tests/test_browser.py with the Python that has Playwright, once for all.
"""
import json
import os
import re
import sys
import traceback
from pathlib import Path

from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect, sync_playwright

PATIENCE = 300_000  # milliseconds; a busy machine is slow
HOSTILE = '<script>document.title = "taken over"</script> my parcel is late'


def share_kernel(page, given):
    "Let a notebook begin in the kernel that an earlier one has started, where there is one."
    page.goto(f"{given['address']}/api/kernels", timeout=PATIENCE)
    kernels = page.request.get(f"{given['address']}/api/kernels").json()
    if not kernels: return
    token = next((cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "_xsrf"), "")
    path = f"{given['name']}.ipynb"
    answer = page.request.post(
        f"{given['address']}/api/sessions", headers={"X-XSRFToken": token},
        data=dict(path=path, name=path, type="notebook", kernel=dict(id=kernels[0]["id"])),
    )
    assert answer.ok, answer.text()


def open_notebook(page, given, run=True):
    page.goto(f"{given['address']}/doc/tree/{given['name']}.ipynb", timeout=PATIENCE)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=PATIENCE)
    if not run: return
    found = page.locator(".jp-Notebook .jp-CodeCell")
    expect(found).to_have_count(given["cells"], timeout=PATIENCE)  # they come one by one
    cells = found.all()
    for number, cell in enumerate(cells): run_cell(page, cell, first=number == 0, begun=0 < number == len(cells) - 1)


def run_cell(page, cell, first, begun):
    """Run a cell until it has a number, or has `begun`; what is sent before the kernel is ready is lost,
    and is sent again.
    """
    prompt = cell.locator(".jp-InputPrompt").first
    for attempt in range(20):
        answer_dialog(page)
        try:
            if first or attempt: cell.locator(".cm-content").click(timeout=PATIENCE / 8)
        except PlaywrightTimeout: continue  # a dialog has come in between
        page.keyboard.press("Shift+Enter")  # which goes from cell to cell
        try: expect(prompt).to_have_text(re.compile(r"[\d*]"), timeout=PATIENCE / 20)
        except AssertionError: continue
        if begun: return
        expect(prompt).not_to_have_text(re.compile(r"\*"), timeout=PATIENCE)
        if re.search(r"\d", prompt.inner_text()): return
    raise AssertionError(f"a cell does not run: {cell.inner_text()[:200]}")


def answer_dialog(page):
    "Answer a question of JupyterLab's as it proposes: beside other work it may ask for a kernel, or for patience."
    dialog = page.locator(".jp-Dialog").first
    if not dialog.is_visible(): return
    print("a dialog:", dialog.inner_text()[:500], file=sys.stderr)
    dialog.locator("button.jp-mod-accept").click(timeout=PATIENCE)


def live(page): return page.locator(".clfm-live").first
def button(page, name): return page.get_by_role("button", name=name, exact=True)
def shows(page, text): expect(live(page)).to_contain_text(text, timeout=PATIENCE)


def by_keyboard(locator, key="Enter", until=None):
    """Press a control the way one does without a mouse; a busy page may lose a key,
    which is pressed again until what it is for is there.
    """
    locator.focus()
    locator.press(key)
    for waited in range(8 if until else 0):
        try: return expect(until).to_be_visible(timeout=PATIENCE / 8)
        except AssertionError:
            if waited == 7: raise
        if not until.is_visible(): locator.press(key)


def until_shown(page, text, act):
    "Do `act(attempt)` until a text is there: a busy page may lose what is typed or pressed, which is then done again."
    for attempt in range(8):
        act(attempt)
        try: return expect(live(page).get_by_text(text).first).to_be_visible(timeout=PATIENCE / 8)
        except AssertionError:
            if attempt == 7: raise


def by_typing(page, label, text, shown, key="Enter"):
    """Fill a field and leave it with a key, pressed on the field, as a form that is drawn anew takes the focus away;
    typed again with a blank more or less, as the same text would be no change.
    """
    field = page.get_by_label(label, exact=True)
    def act(attempt):
        field.fill(text + " " * (attempt % 2))
        field.press(key)
    until_shown(page, shown, act)


def exported(page, name, shown):
    def act(attempt):
        page.get_by_label("File", exact=True).fill(name)
        by_keyboard(button(page, "Export"))
    until_shown(page, shown, act)


def recipe_builder(page, given):
    expect(button(page, "✓ logistic")).to_be_visible(timeout=PATIENCE)
    expect(button(page, "attention")).to_be_disabled()
    shows(page, "attention cannot be chosen: pooler … learns its query")
    by_keyboard(button(page, "linear"), until=button(page, "✓ linear"))
    by_keyboard(button(page, "top-layers"), "Space", until=button(page, "✓ top-layers"))
    expect(button(page, "attention")).to_be_enabled(timeout=PATIENCE)
    by_typing(page, "layers", "one", shown="a number such as 2 expected")
    expect(page.get_by_label("layers", exact=True)).to_have_value(re.compile("one ?"))  # to be corrected in place
    by_typing(page, "layers", "1", shown="name: top-layers")
    by_typing(page, "epochs", "2", shown="epochs: 2", key="Tab")
    by_keyboard(button(page, "Fit"), until=live(page).get_by_text("Done: accuracy"))


def training_monitor(page, given):
    stops = button(page, "Stop and keep the best")
    expect(stops).to_have_count(2, timeout=PATIENCE)
    for number in (0, 1): expect(stops.nth(number)).to_be_enabled(timeout=PATIENCE)
    expect(page.locator(".widget-html .clfm svg")).to_have_count(2, timeout=PATIENCE)
    expect(page.locator(".widget-html .clfm").get_by_text("texts a second").first).to_be_visible(timeout=PATIENCE)
    page.screenshot(path=Path(given["shots"], "training_monitor_running.png"), full_page=True)
    by_keyboard(stops.nth(0))
    expect(
        page.get_by_text("on request; the best weights are kept").locator("visible=true")
    ).to_have_count(1, timeout=PATIENCE)
    expect(stops.nth(0)).to_be_disabled(timeout=PATIENCE)
    expect(stops.nth(1)).to_be_enabled()  # the other run goes on
    by_keyboard(stops.nth(1))
    expect(
        page.get_by_text("on request; the best weights are kept").locator("visible=true")
    ).to_have_count(2, timeout=PATIENCE)


def token_lens(page, given):
    shows(page, "Words that moved")
    page.get_by_label("Label", exact=True).select_option(index=3)
    page.get_by_label("Message", exact=True).fill(HOSTILE)
    by_keyboard(button(page, "Explain"))
    shows(page, "parcel")
    shows(page, "<script>")
    assert page.title() != "taken over"


def layer_lens(page, given):
    shows(page, "Features kept")
    page.get_by_label("Column", exact=True).select_option(index=0)
    shows(page, "the strongest of")


def error_browser(page, given):
    shows(page, "mistakes in")
    cell = live(page).locator("button:not([disabled])[title*='predicted']").filter(has_not_text="✓").nth(1)
    cell.focus()
    wanted = cell.get_attribute("title")
    cell.press("Enter")
    label = wanted.removeprefix("true ").partition(", predicted ")[0]
    shows(page, f"{label}, predicted")
    def relabel(attempt):
        page.get_by_label("New label", exact=True).fill(label)
        by_keyboard(button(page, "Relabel"))
    until_shown(page, "1 with a new label", relabel)
    exported(page, "rows.jsonl", shown="rows to rows.jsonl")
    exported(page, "rows.xlsx", shown=".csv or .jsonl expected")


def large_error_browser(page, given):
    shows(page, "10,000 labels")
    by_keyboard(button(page, "Next labels"))
    shows(page, "9 to 16 of 10,000 labels")
    page.get_by_label("Search", exact=True).press_sequentially("class 77")
    expect(page.get_by_label("Confusions", exact=True).locator("option").nth(1)).to_contain_text(
        "class 77", timeout=PATIENCE
    )
    page.get_by_label("Confusions", exact=True).select_option(index=1)
    shows(page, "<b>text</b>")


def labeller(page, given):
    "Keys, the one field that they are typed into, names, notes; then the kernel goes away, and the labelling goes on."
    shows(page, "rows have a label")
    keys = page.get_by_label("Keys", exact=True)
    asked = live(page).get_by_text(re.compile(r"^Row \d+$"))
    def counted():
        return int(re.search(r"(\d+) of \d+ rows have a label", live(page).inner_text())[1])
    before = counted()
    keys.focus()
    for key in "1213": keys.press(key, delay=20)  # faster than answers are drawn
    shows(page, f"{before + 4} of ")
    keys.press("Backspace")
    shows(page, f"{before + 3} of ")
    text = asked.inner_text()
    keys.press("s")
    expect(asked).not_to_have_text(text, timeout=PATIENCE)
    keys.press("n")
    shows(page, "1 fit no label")
    keys.press("?")
    shows(page, "is no label; keys are 1, 2")
    page.get_by_label("Note", exact=True).fill("not sure")
    page.get_by_label("Note", exact=True).press("Enter")
    label = page.get_by_label("Label", exact=True)
    label.fill("Cancel_Order ")
    by_keyboard(button(page, "Give this label"))
    shows(page, f"{before + 4} of ")
    label.fill("a new one")
    by_keyboard(button(page, "Add as a new label"), until=button(page, "7 a new one"))
    by_keyboard(button(page, "7 a new one"))
    shows(page, f"{before + 5} of ")
    expect(keys).to_be_focused(timeout=PATIENCE)  # so that one goes on with keys
    shows(page, "a probe is right on")
    for width in (1280, 400):
        page.set_viewport_size(dict(width=width, height=1500))
        page.wait_for_timeout(500)
        page.screenshot(path=Path(given["shots"], f"labeller_{width}.png"), full_page=True)
    page.set_viewport_size(dict(width=1200, height=1500))
    save(page)
    restart(page, given)
    open_notebook(page, given, run=False)
    cell = page.locator(".jp-Notebook .jp-CodeCell").first
    until_shown(page, f"{before + 5} of ", lambda attempt: run_cell(page, cell, first=True, begun=False))


def playground(page, given):
    for words in ("Answer:", "intent", "slots"): shows(page, words)
    message = page.get_by_label("Message", exact=True)
    message.fill("")
    shows(page, "type one")
    message.fill(HOSTILE)
    by_keyboard(button(page, "Answer"))
    shows(page, "<script>")
    shows(page, "the line is at")
    assert page.title() != "taken over"


def restarted(page, given):
    "The kernel goes away: the picture stays, and a page opened anew shows it without a kernel that knows it."
    shows(page, "Answer:")
    page.keyboard.press("Escape")
    save(page)
    restart(page, given)
    expect(page.locator(".clfm").locator("visible=true").first).to_contain_text("Answer:")
    open_notebook(page, given, run=False)
    expect(page.locator(".clfm").locator("visible=true").first).to_contain_text("Answer:", timeout=PATIENCE)


def restart(page, given):
    "Restart the kernel."
    page.evaluate("""async address => {
        for (const kernel of await (await fetch(address + '/api/kernels')).json()) {
            const headers = {'X-XSRFToken': (document.cookie.match('_xsrf=([^;]*)') || [])[1] || ''};
            await fetch(`${address}/api/kernels/${kernel.id}/restart`, {method: 'POST', headers});
        }
    }""", given["address"])
    expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']").first).to_be_attached(timeout=PATIENCE)


def nothing(page, given): shows(page, "nothing to browse")


def served(page, given):
    "The page of `clfm serve`: a token where one is needed, a text, an answer of each model."
    page.goto(given["address"], timeout=PATIENCE)
    expect(page.get_by_label("Token")).to_be_hidden()
    page.get_by_label("Text", exact=True).fill(given["text"])
    button(page, "Answer").click()
    expect(page.get_by_role("alert")).to_have_text("a bearer token is needed", timeout=PATIENCE)
    page.get_by_label("Token").fill(given["token"])
    for name, label in given["labels"].items():
        page.get_by_label("Model").select_option(name)
        page.get_by_label("Text", exact=True).fill(given["text"])
        by_keyboard(button(page, "Answer"))
        expect(page.locator("#answer table tr").first).to_have_text(f"label{label}", timeout=PATIENCE)
        expect(page.get_by_role("alert")).to_have_text("")
        page.get_by_label("Text", exact=True).fill("x" * 30_000)
        by_keyboard(button(page, "Answer"))
        expect(page.get_by_role("alert")).to_contain_text("a text may have 20000", timeout=PATIENCE)
        expect(page.locator("#answer")).to_have_text("")
    assert page.title() == "clfm serve"


def save(page):
    "Save from outside any field, and wait until the file is written."
    page.locator(".jp-InputPrompt").first.click()
    with page.expect_response(
        lambda response: "/api/contents/" in response.url and response.request.method == "PUT", timeout=PATIENCE
    ):
        page.keyboard.press("Control+s")


def walk(context, given):
    "Do what the function of a name does in a page of its own; for a notebook, open and run it before, save it after."
    page = context.new_page()
    outside = []
    page.on(
        "request",
        lambda request: outside.append(request.url)
            if not request.url.startswith((given["address"], "data:", "blob:")) else None,
    )
    try:
        if "cells" in given:
            share_kernel(page, given)
            open_notebook(page, given)
        try:
            globals()[given["name"]](page, given)
            if "cells" in given: save(page)
        finally: page.screenshot(path=Path(given["shots"], f"{given['name']}.png"), full_page=True)
        assert not outside, f"the page asked for {outside[:3]}"
    finally: page.close()


def main(chromium):
    "Answer each line, what a test is given as JSON, with one: what went wrong, or an empty string."
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium["executable"], args=chromium.get("arguments", []),
            env={**os.environ, **chromium.get("variables", {})},
        )
        # shared, so that JupyterLab's scripts are fetched once
        context = browser.new_context(viewport=dict(width=1200, height=1500))
        for line in sys.stdin:
            try: walk(context, json.loads(line))
            except Exception: said = traceback.format_exc()
            else: said = ""
            print(json.dumps(said), flush=True)
        browser.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
