"""Every widget, and the page of `clfm serve`, in headless Chromium, clicked and typed through, a screenshot of each.

Screenshots go to a temporary folder, or to the one that CLFM_KIT_SHOTS names; CLFM_KIT_THEME="JupyterLab Dark" shows
them on a dark page.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import afresh
import browser
import nbformat
import psutil
import pytest
from command import started

from clfm_kit import Classifier, load_data

HOSTILE = '<script>document.title = "taken over"</script> my parcel is late'
STEPS = Path(__file__).with_name("browser_steps.py")
FIT = (
    "from clfm_kit import Classifier, load_data\n"
    "rows = load_data('helpdesk').train.take(range(500))\n"
    "clf = Classifier('{recipe}', '{tiny}', {settings}, cache=None{more}).fit(rows.texts, rows.labels)"
)
SLOW = "training.epochs=60", "training.learning_rate=1e-3", "training.patience=60"

NOTEBOOKS = dict(
    recipe_builder=[
        "from clfm_kit.notebook.widgets import RecipeBuilder\nbuilder = RecipeBuilder(model='{tiny}')\nbuilder"
    ],
    training_monitor=[
        "from clfm_kit import Classifier\nfrom clfm_kit.notebook.widgets import TrainingMonitor\n"
            "monitors = [TrainingMonitor(Classifier('finetune', '{tiny}', ['seed=%d' % seed, *{slow}], cache=None)) "
            "for seed in (0, 1)]\nmonitors[0].fit('helpdesk')\nmonitors[0]",
        "monitors[1].fit('helpdesk')\nmonitors[1]",
    ],
    token_lens=[
        FIT,
        "from clfm_kit.notebook.widgets import TokenLens\n"
            "TokenLens(clf, 'My card got charged twice for the same kettle')",
    ],
    layer_lens=[FIT, "from clfm_kit.notebook.widgets import LayerLens\nLayerLens(clf)"],
    error_browser=[
        FIT, "from clfm_kit.notebook.widgets import ErrorBrowser\nerrors = ErrorBrowser.of(clf, 'helpdesk')\nerrors",
        "print('new', errors.new)",
    ],
    large_error_browser=[
        "from clfm_kit.notebook.widgets import ErrorBrowser\nimport random\nrandom.seed(0)\n"
        "names = [f'class {{n}}' for n in range(10000)]\n"
        "true, called = ([random.choice(names) for _ in range(50000)] for _ in range(2))\n"
        "ErrorBrowser(['<b>text</b> %d' % n for n in range(50000)], true, called, name='large')"
    ],
    labeller=[
        "import json\nfrom pathlib import Path\nfrom clfm_kit import load_data\n"
            "from clfm_kit_labels.labeller import Labeller\npool = Path('pool.jsonl')\n"
            "rows = load_data('helpdesk').train.take(range(200))\nnames = sorted(set(rows.labels))[:6]\n"
            "records = [dict(text=text, label=label if number < 160 and label in names else None, proposed=names[0])\n"
            "           for number, (text, label) in enumerate(zip(rows.texts, rows.labels))]\n"
            "if not pool.exists(): pool.write_text('\\n'.join(map(json.dumps, records)))\n"
            "labeller = Labeller(pool, names, model='{tiny}', cache=None, every=3)\nlabeller",
        "print(labeller.session.counts())",
    ],
    playground=[
        FIT,
        "from clfm_kit.notebook.widgets import Playground\n"
            "tasks = dict(intent=dict(label='label', reject='energy'), slots='slots')\n"
            "other = Classifier('probe', '{tiny}', ['pooler=first'], cache=None, tasks=tasks).fit('helpdesk')\n"
            "Playground(clf, 'kettle arrived broken', other=other)",
    ],
    nothing=["from clfm_kit.notebook.widgets import ErrorBrowser\nErrorBrowser([], [], [])"],
    restarted=[
        FIT, "from clfm_kit.notebook.widgets import Playground\nPlayground(clf, text='kettle arrived broken')"
    ],
)


@pytest.fixture(scope="module")
def chromium():
    try: return browser.provide()
    except browser.Missing as error: pytest.skip(f"no browser can be had here: {error}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny):
    "The address of this Python's JupyterLab, whose kernel it is too, and the folder of its notebooks."
    home = tmp_path_factory.mktemp("lab")
    spec, settings = home / "data" / "kernels" / "python3", home / "settings" / "@jupyterlab" / "apputils-extension"
    for path in (spec, settings, home / "notebooks"): path.mkdir(parents=True)
    kernel = dict(
        argv=[afresh.program(), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="this", language="python",
    )
    (spec / "kernel.json").write_text(json.dumps(kernel))
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (settings / "themes.jupyterlab-settings").write_text(
        json.dumps(dict(theme=os.environ.get("CLFM_KIT_THEME", "JupyterLab Light")))
    )
    with socket.socket() as free: free.bind(("127.0.0.1", 0)); port = free.getsockname()[1]
    variables = {
        **os.environ, "JUPYTER_PATH": str(home / "data"), "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "OMP_NUM_THREADS": "1", "PYTHONPATH": "",
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        "--IdentityProvider.token=", f"--ServerApp.root_dir={home / 'notebooks'}",
    ]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, cwd=home)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api/status", server, home / "log")
        yield address, home / "notebooks"
    finally:
        ended(server)


def ended(server):
    "End a server and its kernels. On its way out it may wait for a thread of its own that never ends, and is killed."
    kernels = psutil.Process(server.pid).children(recursive=True)
    server.terminate()
    try: server.wait(30)
    except subprocess.TimeoutExpired: server.kill()
    for process in kernels:
        with suppress(psutil.NoSuchProcess): process.kill()
    psutil.wait_procs(kernels)
    server.wait()


def wait_for(address, server, log, seconds=120):
    "Until the server answers; fails with its log when it ends or takes too long."
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try: return urllib.request.urlopen(address, timeout=5).read()
        except OSError: time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def driver(chromium):
    "One browser for all pages; it takes a line for each and answers with what went wrong."
    command = [chromium["python"], STEPS, json.dumps(chromium["browser"])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


def walked(driver, given):
    "What went wrong in the browser with one page; empty where nothing did."
    driver.stdin.write(json.dumps(given) + "\n")
    driver.stdin.flush()
    line = driver.stdout.readline()
    return json.loads(line) if line else "the browser has ended"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_widget_in_a_browser(name, driver, lab, tiny, tmp_path):
    address, folder = lab
    facts = dict(
        tiny=tiny, recipe="stc" if name == "layer_lens" else "probe", settings=[],
        more=", reject=0.9" if name in ("playground", "restarted") else "", slow=SLOW,
    )
    cells = [nbformat.v4.new_code_cell(source.format(**facts)) for source in NOTEBOOKS[name]]
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata=dict(kernelspec=dict(name="python3", display_name="this", language="python"))
    )
    nbformat.write(notebook, folder / f"{name}.ipynb")
    shots = Path(os.environ.get("CLFM_KIT_SHOTS") or tmp_path)
    wrong = walked(driver, dict(address=address, name=name, cells=len(cells), shots=str(shots)))
    assert not wrong, wrong[-3000:]
    assert (shots / f"{name}.png").stat().st_size > 10_000
    stored = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    pages = [
        output.data["text/html"]
        for cell in stored.cells for output in cell.get("outputs", []) if "text/html" in output.get("data", {})
    ]
    assert any('class="clfm"' in page for page in pages), "the notebook that was saved holds the plain picture"
    assert "<script" not in "".join(pages)


def test_the_page_of_a_server_answers_in_a_browser(driver, fitted, tiny, tmp_path):
    rows = load_data("helpdesk").train.take(range(60))
    other = Classifier("probe", tiny, ["pooler=first"], cache=None).fit(rows).save_pretrained(tmp_path / "other")
    labels = {Path(folder).name: Classifier.from_pretrained(folder).predict([HOSTILE])[0] for folder in (fitted, other)}
    process, port = started(fitted, other, env={**os.environ, "CLFM_KIT_TOKEN": "geheim"})
    try:
        given = dict(address=f"http://127.0.0.1:{port}", name="served", token="geheim", text=HOSTILE, labels=labels)
        wrong = walked(driver, dict(**given, shots=str(tmp_path)))
        assert not wrong, wrong[-3000:]
        assert (tmp_path / "served.png").stat().st_size > 5_000
    finally: process.send_signal(signal.SIGTERM)
    assert process.wait().returncode == 0
