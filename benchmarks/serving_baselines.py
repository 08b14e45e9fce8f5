"""What `benchmarks/serving.py` holds `clfm serve` against: the same classifier behind a plain FastAPI endpoint, and
behind LitServe with batches (`pip install litserve`). Both answer `POST /predict` as `clfm serve` does.

    python benchmarks/serving_baselines.py fastapi MODEL PORT
"""
import argparse
import os

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
    "A worker that takes requests in batches, of 32 at most within 3 ms, as `clfm serve` waits."
    os.environ["LIT_SERVER_API_KEY"] = ""
    import litserve as ls
    class Api(ls.LitAPI):
        def setup(self, device): self.clf = Classifier.from_pretrained(folder)
        def decode_request(self, request): return request["text"]
        def batch(self, inputs): return list(inputs)
        def predict(self, texts): return answers(self.clf, texts)
        def unbatch(self, output): return output
        def encode_response(self, output): return {"answers": [output]}
    server = ls.LitServer(Api(max_batch_size=32, batch_timeout=0.003), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False, access_log=False)


SIDES = {"fastapi": fastapi, "litserve": litserve}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("folder")
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    SIDES[given.side](given.folder, given.port)
