"""Triton's own client, without tame-deploy: python explain_triton.py PICTURE [HOST:PORT] [MODEL].

pip install 'tritonclient[grpc]'
"""

import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

picture = Path(sys.argv[1])
address = sys.argv[2] if len(sys.argv) > 2 else "localhost:8001"
model = sys.argv[3] if len(sys.argv) > 3 else "demo"

# The file goes as it is: the server decodes and prepares it as the manifest says.
files = np.array([picture.read_bytes()], dtype=np.object_)
image = triton.InferInput("image", [1], "BYTES")
image.set_data_from_numpy(files)
# The likeliest class, and class 0 beside it.
class_ids = triton.InferInput("class_ids", [1, 2], "INT64")
class_ids.set_data_from_numpy(np.array([[-1, 0]], np.int64))

with triton.InferenceServerClient(address) as client:
    answer = client.infer(
        model,
        [image, class_ids],
        outputs=[
            triton.InferRequestedOutput("logits", class_count=3),
            triton.InferRequestedOutput("explained"),
            triton.InferRequestedOutput("maps"),
            triton.InferRequestedOutput("overlay"),
        ],
    )

for line in answer.as_numpy("logits")[0]:
    value, class_id, name = line.decode().split(":", 2)
    print(f"{name} (class {class_id}): logit {float(value):.3f}")
maps = answer.as_numpy("maps")  # (1, 2, h, w), in [0, 1]
print("maps", maps.shape, "of classes", answer.as_numpy("explained")[0])
Path("explained.png").write_bytes(answer.as_numpy("overlay")[0, 0])
print("wrote explained.png")
