"""What `benchmarks/serving.py` holds `clfm serve` against: the same classifier behind a plain FastAPI endpoint, and
behind LitServe with batches (`pip install litserve`). Both answer `POST /predict` as `clfm serve` does.

    python benchmarks/serving_baselines.py fastapi MODEL PORT
"""
import argparse

from clfm_kit import Classifier


def answers(clf, texts) -> list:
    "An answer for each text, as `clfm serve` gives it."
    labels, chances = clf.answer(texts)
    names = [str(label) for label in clf.classes_]
    return [dict(label=str(label), probabilities=dict(zip(names, row))) for label, row in zip(labels, chances.tolist())]


def fastapi(folder, port):
    "An endpoint as one would write it: a function for each request, in the threads of the framework."
    import uvicorn
    from fastapi import FastAPI
    app, clf = FastAPI(), Classifier.from_pretrained(folder)
    @app.post("/predict")
    def predict(given: dict) -> dict: return {"answers": answers(clf, [given["text"]])}
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def litserve(folder, port):
    "LitServe's own loop, see `serving_litserve.py`."
    from serving_litserve import serve
    serve(folder, port)


SIDES = {"fastapi": fastapi, "litserve": litserve}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("folder")
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    SIDES[given.side](given.folder, given.port)
