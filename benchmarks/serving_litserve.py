"""The side of `benchmarks/serving_baselines.py` that needs `pip install litserve`; its workers import it anew."""
import os

import litserve as ls
from serving_baselines import answers

from clfm_kit import Classifier


class Api(ls.LitAPI):
    "A worker that takes requests in batches, of 32 at most within 3 ms, as `clfm serve` waits."

    folder = ""

    def setup(self, device): self.clf = Classifier.from_pretrained(self.folder)
    def decode_request(self, request): return request["text"]
    def batch(self, inputs): return list(inputs)
    def predict(self, texts): return answers(self.clf, texts)
    def unbatch(self, output): return output
    def encode_response(self, output): return {"answers": [output]}


def serve(folder, port):
    "Answer on a port until the process ends."
    os.environ["LIT_SERVER_API_KEY"] = ""
    api = Api(max_batch_size=32, batch_timeout=0.003)
    api.folder = folder
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False, access_log=False)
