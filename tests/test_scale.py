"""The page on many rows: its Spark recipe runs as it stands there, and its arithmetic is that of the file it names."""
import json
import re
import shutil
from importlib.util import find_spec
from statistics import median

import pyarrow
import pyarrow.parquet
import pytest
from tree import ROOT

from clfm_kit import Classifier, load_data

PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.fixture
def spark(tmp_path, monkeypatch):
    "A session of Spark in a folder of its own."
    if find_spec("pyspark") is None: pytest.skip("pyspark is not installed: pip install pyspark")
    if shutil.which("java") is None: pytest.skip("there is no java, on which Spark runs: install a JDK from 17 up")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    from pyspark.sql import SparkSession
    made = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    yield made
    made.stop()


def test_the_spark_recipe_answers_as_predict_does(spark, fitted, tmp_path):
    shutil.copytree(fitted, tmp_path / "model")
    texts = load_data("helpdesk").test.texts[:40]
    pyarrow.parquet.write_table(pyarrow.table(dict(id=[*range(40)], text=list(texts))), tmp_path / "rows")
    recipe = next(code for code in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "mapInPandas" in code)
    assert len([line for line in recipe.splitlines() if line]) <= 10
    exec(recipe.replace('"my-model"', repr(str(tmp_path / "model"))), dict(spark=spark))
    found = pyarrow.parquet.read_table(tmp_path / "answers").sort_by("id").to_pydict()
    labels, chances = Classifier.from_pretrained(fitted).answer(texts)
    assert found["id"] == [*range(40)] and found["text"] == list(texts) and found["label"] == labels.tolist()
    assert found["probability"] == pytest.approx(chances.max(1).tolist(), abs=1e-4)


def test_what_a_billion_rows_take_follows_from_the_measured_rate():
    measured = json.loads((ROOT / "benchmarks" / "results" / "scoring.json").read_text(encoding="utf-8"))
    run, = (row for row in measured["rows"] if row.get("side") == "scoring")
    seconds = median(run["seconds"])
    rate = run["rows"] / seconds
    hours = 1e9 / rate / 3600
    assert f"{run['rows']:,} rows" in PAGE and f"{seconds:.1f} seconds" in PAGE
    assert f"{rate:.1f} rows per second" in PAGE
    assert f"| a billion | {hours:,.0f} | {hours / 8:,.0f} | {hours / 100:,.0f} | {hours / 1000:.1f} |" in PAGE
