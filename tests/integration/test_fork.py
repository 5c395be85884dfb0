"""A process that has explained forks, as web servers and `multiprocessing` do: all answer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tame_deploy.artifact.directory import open_artifact
from tame_deploy.runtime.verify.reference import ParityReference

if sys.platform != "linux":
    pytest.skip("forks are tried on Linux alone", allow_module_level=True)

#: A process of its own, because that of the tests has threads of other libraries.
PROGRAM = """
import multiprocessing, sys
import numpy as np
from tame_deploy import load

pictures = np.load(sys.argv[3])["images"]
forks = multiprocessing.get_context("fork")

def logits(explainer):
    streamed = explainer.stream(list(pictures), batch_size=2, workers=2)
    return np.concatenate([one.explanation.logits[None] for one in streamed])

def answer(explainer, queue):
    queue.put([explainer.explain(list(pictures)).logits, logits(explainer)])

with load(sys.argv[1], backend=sys.argv[2], threads=2) as explainer:
    if sys.argv[4] == "after a stream":
        expected = logits(explainer)
    queue = forks.SimpleQueue()
    children = [forks.Process(target=answer, args=(explainer, queue)) for _ in range(3)]
    for child in children:
        child.start()
    found = [values for child in children for values in queue.get()]
    found.append(logits(explainer))
    for values in found:
        np.testing.assert_allclose(values, found[0], rtol=1e-4, atol=1e-4)
    for child in children:
        child.join()
        assert child.exitcode == 0
print("answered")
"""


@pytest.mark.parametrize("when", ["after load", "after a stream"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_parent_and_children_answer_after_a_fork(demo_export, backend, when):
    pytest.importorskip(backend)
    artifact = open_artifact(demo_export)
    assert ParityReference.load(artifact).images.dtype == "uint8"
    words = [demo_export, backend, artifact.file("parity.npz"), when]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("answered\n", 0), done.stderr
