"""The command line as a user meets it: one process a command, its output, its exit status."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from tame_deploy.data.shapes import draw_picture
from tests.command_line import one_line, run, run_here, signal_when

DEMO_PICTURES = Path(__file__).parents[2] / "tame_deploy" / "data" / "pictures"


def read_records(folder):
    text = (folder / "results.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_from_backbone_to_explained_pictures(tmp_path):
    """The README's first commands, in their order."""
    done = run("export", "--backbone", "demo", cwd=tmp_path)
    assert "made build/demo" in done.stdout
    assert "top-1 agreement" in done.stdout
    done = run("verify", "build/demo", cwd=tmp_path)
    assert "every output as in PyTorch" in done.stdout
    done = run("explain", "build/demo", DEMO_PICTURES, "-o", "out", cwd=tmp_path, anew=True)
    assert "explained 12 of 12" in done.stdout
    records = read_records(tmp_path / "out")
    assert len(records) == 12
    for record in records:
        assert Path(record["file"]).name.startswith(record["top"][0]["name"])
        assert record["explained"][0]["class_id"] == record["top"][0]["class_id"]
        for kind in ("overlay", "panel"):
            Image.open(tmp_path / "out" / record["explained"][0][kind]).load()
    Image.open(tmp_path / "out/contact-sheet.jpg").load()


def test_export_will_not_replace_without_being_told(tmp_path, demo_export):
    shutil.copytree(demo_export, tmp_path / "it")
    done = run("export", "-b", "demo", "-o", tmp_path / "it", expect=1)
    assert "pass --overwrite" in one_line(done)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-b", "vgg61"], "unknown backbone 'vgg61'. Nearest: vgg"),
        (["-b", "squeezenet1_1", "--weights", "random"], "no public head for squeezenet1_1"),
        (
            ["-b", "squeezenet1_1", "--weights", "random", "--head", "random"],
            "pass --layers a,b,c. Candidates and a proposal: tame-deploy layers squeezenet1_1",
        ),
        (["-b", "demo", "--layers", "block2,blok3,block4"], "no layer 'blok3'. Nearest: block3"),
        (["-b", "demo", "--layers", "block2,,block4"], "empty name"),
        (["-b", "demo", "--layers", "block2,block2"], "name one twice"),
        (["-b", "demo", "--head", "random", "--layers", "classifier"], "not a feature map"),
        (["-b", "demo", "--layers", "block3,block4"], "trained on layers block2, block3, block4"),
        (["-b", "demo", "--variant", "no-skip"], "of --variant tame, not no-skip"),
        (["-b", "demo", "--classes", "9"], "the demo has 6 classes, not 9"),
        (["-b", "demo", "--weights", "missing.pth"], "--weights missing.pth: no such file"),
        (["-b", "demo", "--head", "missing.pth"], "missing.pth: no such checkpoint"),
        (["-b", "demo", "--image-size", "12by9"], "--image-size is '12by9'"),
        (["-b", "demo", "--image-size", "0"], "image height is 0"),
        (["-b", "demo", "--mean", "1,2"], "image has 2 means and 3 standard deviations"),
        (["-b", "demo", "--std", "0,0,0"], "positive numbers"),
        (["-b", "demo", "--labels", "missing.txt"], "cannot read labels missing.txt"),
        (["-b", "demo", "--labels", "imagenet"], "found 1000 labels for 6 classes"),
        (["-b", "demo", "--opset", "9"], "--opset is 9; expected 18"),
        (["-b", "demo", "--tokens", "patch-times-class"], "holds a head of --tokens patch, not"),
        (["-b", "demo", "--seed", "7"], "--seed has no meaning"),
        (["-b", "nowhere:build"], "cannot import backbone nowhere:build"),
        (["-b", "json:loads"], "cannot build backbone json:loads"),
        (["-b", "builtins:object"], "gave object; expected a torch module"),
        (["-b", "demo", "-o", "/proc/it"], "cannot write /proc/it"),
    ],
)
def test_export_says_in_one_line_what_is_wrong(tmp_path, arguments, message):
    done = run_here("export", *arguments, cwd=tmp_path, expect=1)
    assert message in one_line(done)
    assert not [p for p in tmp_path.rglob("*") if p.name != "build"]


def test_offline_default_says_what_to_pass(tmp_path):
    closed = {
        "TORCH_HOME": str(tmp_path),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = run("export", "-b", "vgg16", cwd=tmp_path, expect=1, env=closed)
    assert "Without a network: pass --weights PATH" in one_line(done)


def test_a_head_for_another_backbone(tmp_path):
    from tame_deploy.model import demo

    done = run(
        "export", "-b", "squeezenet1_1", "--weights", "random", "--head", demo.HEAD_FILE,
        "--layers", "features.4", cwd=tmp_path, expect=1,
    )  # fmt: skip
    assert "the head was trained on demo, not on squeezenet1_1" in one_line(done)


def test_own_weights_bring_their_number_of_classes(tmp_path):
    from torchvision.models import squeezenet1_1

    module = squeezenet1_1(num_classes=3)
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}},
               tmp_path / "w.pth")  # fmt: skip
    (tmp_path / "labels.txt").write_text("cat\ndog\nfish\n")
    run(
        "export", "-b", "squeezenet1_1", "--weights", "w.pth", "--head", "random",
        "--layers", "features.4,features.7,features", "--labels", "labels.txt",
        "--image-size", "96x128", "--task", "multiclass", "-o", "it", cwd=tmp_path,
    )  # fmt: skip
    manifest = json.loads(run("inspect", "it", "--json", cwd=tmp_path).stdout)
    assert manifest["classes"] == 3
    assert manifest["inputs"][0]["shape"] == ["batch", 96, 128, 3]
    source = manifest["weights"]["backbone"]["source"]
    assert source.startswith("w.pth; assumed preprocessing: the middle cut out, the short side")
    assert (tmp_path / "it/labels.txt").read_text() == "cat\ndog\nfish\n"


@pytest.fixture(scope="module")
def own_callable(tmp_path_factory):
    """Return a folder with a network of one's own, its artifact, and what `export` said of it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(
        "from torch import nn\n"
        "def build(num_classes=4):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2),\n"
        "        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes))\n"
    )
    done = run(
        "export", "-b", "mine:build", "--head", "random", "--layers", "1,3",
        "--image-size", "64", "--classes", "7", "-o", "it", cwd=folder,
    )  # fmt: skip
    return folder, done


def test_a_callable_of_ones_own_with_its_layers(own_callable):
    folder, _ = own_callable
    done = run("layers", "mine:build", "--image-size", "64", "--json", cwd=folder)
    assert json.loads(done.stdout)["proposed"] == ["1", "3"]
    assert "mine:build" in run("inspect", "it", cwd=folder).stdout


def test_tokens_that_can_be_read_in_two_ways_are_asked_for(tmp_path):
    (tmp_path / "tokens.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.embed, self.head = nn.Linear(6912, 8), nn.Linear(8, 4)\n"
        "    def forward(self, images):\n"
        "        patches = nn.functional.unfold(images, 48, stride=48).mT\n"
        "        return self.head(self.embed(nn.functional.pad(patches, (0, 0, 5, 0))).mean(1))\n"
    )
    asked = ("layers", "tokens:Net", "--image-size", "96", "--json")
    refused = run(*asked, cwd=tmp_path, expect=1)
    assert "say which with --prefix-tokens 0 or --prefix-tokens 5" in one_line(refused)
    rows = json.loads(run(*asked, "--prefix-tokens", "5", cwd=tmp_path).stdout)["layers"]
    assert (rows[0]["prefix_tokens"], rows[0]["height"], rows[0]["width"]) == (5, 2, 2)


def test_random_weights_are_said_by_every_command(own_callable, tmp_path):
    folder, done = own_callable
    assert "speed only: the head of it has random weights" in done.stderr
    picture = DEMO_PICTURES / "ring-1.png"
    for command in (["verify"], ["inspect"], ["explain", picture, "-o", tmp_path / "out"]):
        done = run(command[0], "it", *command[1:], cwd=folder)
        assert "speed only" in done.stderr
    record = json.loads((tmp_path / "out/results.jsonl").read_text())
    assert record["speed_only"] is True


def test_layers_lists_and_proposes():
    done = run("layers", "squeezenet1_1")
    assert "features.7" in done.stdout
    assert done.stdout.strip().endswith("--layers features.4,features.7,features.12")
    assert "features.3.squeeze" in run("layers", "squeezenet1_1", "--all").stdout
    papers = json.loads(run("layers", "vit_b_16", "--json").stdout)["proposed"]
    assert papers == [f"encoder.layers.encoder_layer_{i}.ln" for i in (9, 10, 11)]


def test_import_checkpoint_and_export_with_it(tmp_path):
    from tame_deploy.model import demo
    from tame_deploy.model.head_checkpoint import read_head

    state = read_head(demo.HEAD_FILE).head.state_dict()
    published = {f"attn.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 7, "global_counter": 1, "state_dict": published}, tmp_path / "epoch_7.pt")
    done = run("import-checkpoint", "epoch_7.pt", "-b", "demo", "-o", "h.safetensors", cwd=tmp_path)
    assert "tame head, 6 classes" in done.stdout
    made = run("export", "-b", "demo", "--head", "h.safetensors", "-o", "it [1] &", cwd=tmp_path)
    assert "tame-deploy explain 'it [1] &' " in made.stdout
    wrong = run(
        "import-checkpoint", "epoch_7.pt", "-b", "demo", "--layers", "block1,block2,block3",
        "-o", "no.safetensors", cwd=tmp_path, expect=1,
    )  # fmt: skip
    assert "the head is for layers of 48, 96, 128 channels" in one_line(wrong)
    assert not (tmp_path / "no.safetensors").exists()


def test_unreadable_pictures_are_listed_and_the_rest_is_done(tmp_path, demo_export):
    folder = tmp_path / "pictures" / "deep"
    folder.mkdir(parents=True)
    for seed in range(3):
        draw_picture(seed)[0].save(folder / f"{seed}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not a picture by its name")
    draw_picture(9)[0].resize((90, 300)).save(tmp_path / "pictures" / "0.png")
    draw_picture(9)[0].resize((5000, 4)).save(tmp_path / "pictures" / "strip.png")
    draw_picture(9)[0].resize((80_000, 1)).save(tmp_path / "pictures" / "thread.png")
    draw_picture(8)[0].save(os.fsencode(tmp_path) + b"/pictures/caf\xe9.png")
    done = run(
        "explain", demo_export, tmp_path / "pictures", tmp_path / "gone.png", f"{tmp_path}/zz*.png",
        "-o", tmp_path / "out", "--batch-size", "2", expect=1,
    )  # fmt: skip
    assert "explained 6 of 11" in done.stdout
    listed = done.stderr.splitlines()
    assert sum("broken.jpg" in line for line in listed) == 1
    assert sum("empty.png" in line for line in listed) == 1
    assert sum("thread.png: picture is 80000x1: too long" in line for line in listed) == 1
    assert sum("zz*.png: no such file" in line for line in listed) == 1
    assert sum("gone.png: no such file" in line for line in listed) == 1
    records = read_records(tmp_path / "out")
    written = {record["explained"][0]["overlay"] for record in records}
    assert {"0-overlay.jpg", "0~2-overlay.jpg", "1-overlay.jpg", "strip-overlay.jpg"} < written
    assert len(written) == 6


def test_a_second_run_does_not_explain_the_first_ones_pictures(tmp_path, demo_export):
    draw_picture(0)[0].save(tmp_path / "it.png")
    run("explain", demo_export, ".", cwd=tmp_path)
    done = run("explain", demo_export, ".", "--overwrite", cwd=tmp_path)
    assert "explained 1 of 1" in done.stdout
    done = run("explain", demo_export, "it.png", "-o", ".", "--overwrite", cwd=tmp_path, expect=1)
    assert "lies in the output folder" in one_line(done)


def test_results_that_cannot_be_written_are_one_line(tmp_path, demo_export):
    (tmp_path / "out" / "results.jsonl").mkdir(parents=True)
    picture = DEMO_PICTURES / "ring-1.png"
    done = run("explain", demo_export, picture, "-o", tmp_path / "out", "--overwrite", expect=1)
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr


def test_globs_classes_and_labels(tmp_path, demo_export):
    done = run(
        "explain", demo_export, f"{DEMO_PICTURES}/r*-?.png", "-o", tmp_path / "out",
        "--class-id", "0", "--label", "Star",
    )  # fmt: skip
    assert "explained 2 of 2" in done.stdout
    record = read_records(tmp_path / "out")[0]
    assert [one["name"] for one in record["explained"]] == ["circle", "star"]
    assert (tmp_path / "out/ring-1-2-panel.jpg").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{demo}", "{here}/none"], "none: no such file"),
        (["{demo}", "{here}/*.jpg"], "no pictures in"),
        (["{here}/none", "{pictures}"], "expected an artifact directory, found nothing"),
        (["{demo}", "{pictures}", "--class-id", "6"], "class id 6 is out of range"),
        (["{demo}", "{pictures}", "--label", "rign"], "Nearest: ring"),
        (["{demo}", "{pictures}", "--top-k", "9"], "ranks 1 to 5"),
        (["{demo}", "{pictures}", "--top-k", "2", "--class-id", "1"], "expected one of them"),
        (
            ["{demo}", "{pictures}", "--provider", "Nope"],
            "provider Nope is not in this onnxruntime",
        ),
        (["{demo}", "{pictures}", "-o", "/proc/out"], "cannot write /proc/out"),
        (["{demo}", "{pictures}", "-o", "{demo}"], "is not empty; pass --overwrite"),
        (["{demo}", "{pictures}", "-o", "{pictures}"], "no pictures in"),
    ],
)
def test_explain_says_what_is_wrong(tmp_path, demo_export, arguments, message):
    places = {"demo": demo_export, "pictures": DEMO_PICTURES, "here": tmp_path}
    filled = [argument.format(**places) for argument in arguments]
    done = run_here("explain", *filled, cwd=tmp_path, expect=1)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_errors_are_status_two():
    run("export", expect=2)
    run("explain", "x", "y", "--batch-size", "0", expect=2)
    run("nonsense", expect=2)
    for option in ("--crop", "--tokens", "--variant", "--explain", "--maps", "--input"):
        run_here("export", "-b", "demo", option, "wrong", expect=2)
    assert "0.1.0" in run("--version").stdout


def test_inspect_card_shows_tensors_whole(demo_export):
    card = run("inspect", demo_export).stdout
    assert "images: uint8 [batch, 128, 128, 3]" in card
    assert "tame (bundled demo; Apache-2.0)" in card


def test_a_kill_in_the_middle_of_an_export_leaves_no_artifact(tmp_path):
    run(
        "export", "-b", "demo", "-o", "it", cwd=tmp_path, expect=-signal.SIGKILL,
        meanwhile=signal_when(lambda: [*tmp_path.glob(".it.partial-*/.pid")], signal.SIGKILL),
    )  # fmt: skip
    assert not (tmp_path / "it").exists()


def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        done = run("export", "-b", "demo", "-o", disk / "it", expect=1)
        assert "cannot write" in one_line(done)
        assert "No space left" in one_line(done)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)
