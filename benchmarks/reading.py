"""Reading JPEG files: the ways there are, how fast each is, and how equal to this package's.

    python benchmarks/reading.py                   # drawn pictures, 500x375, quality 90
    python benchmarks/reading.py --images DIR      # JPEG files of your own
    python benchmarks/reading.py --turbojpeg /path/to/libturbojpeg.so.0

Every way reads a file, decodes, resizes the short side to 256 and cuts the middle 224x224, and
gives uint8 pixels. They take turns in an order that changes; first each on one thread, then as many
threads as there are cores. A library's own threads are off, so that both mean what they say.
Those that are not installed are recorded as such.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from machine import machine_facts, write_results
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from tame_deploy.artifact.types import ImageSpec
from tame_deploy.data.shapes import draw_picture
from tame_deploy.picture.preprocess import load_image, prepare, visible_box

SPEC = ImageSpec()
OURS = "tame-deploy (Pillow)"
SIZE = (500, 375)  # the usual ImageNet file
QUALITY = 90
LEAST_ROUNDS = 4

Read: TypeAlias = "Callable[[Path], NDArray[np.uint8]]"
Ways: TypeAlias = "dict[str, Read]"


def resized_size(width: int, height: int) -> tuple[int, int]:
    """Return width and height once the short side is SPEC.resize, as torchvision truncates it."""
    long = int(SPEC.resize * max(width, height) / min(width, height))
    return (SPEC.resize, long) if width <= height else (long, SPEC.resize)


def corner(width: int, height: int) -> tuple[int, int]:
    """Return left and top of the middle crop of a resized picture."""
    return round((width - SPEC.width) / 2), round((height - SPEC.height) / 2)


def cropped(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle of a resized picture."""
    left, top = corner(pixels.shape[1], pixels.shape[0])
    return pixels[top : top + SPEC.height, left : left + SPEC.width]


def resized(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize to `size` what was decoded smaller than its file says, and crop."""
    return cropped(np.asarray(image.resize(size, Image.Resampling.BILINEAR)))


def finished(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize and crop what another library decoded, as ours does."""
    return np.asarray(prepare(Image.fromarray(pixels), SPEC))


def pillow_ways() -> Ways:
    """Ours, and other ways to use Pillow."""

    def ours(path: Path) -> NDArray[np.uint8]:
        return np.asarray(prepare(load_image(path), SPEC))

    def draft(path: Path) -> NDArray[np.uint8]:
        with Image.open(path) as image:
            size = resized_size(*image.size)
            image.draft("RGB", size)
            return resized(image.convert("RGB"), size)

    def crop_only(path: Path) -> NDArray[np.uint8]:
        image = load_image(path)
        size, box = (SPEC.width, SPEC.height), visible_box(image.size, SPEC)
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box))

    return {OURS: ours, "Pillow, draft mode": draft, "Pillow, resizing only the crop": crop_only}


def opencv_ways() -> Ways:
    """OpenCV has no antialiased bilinear filter: linear skips pixels, area averages boxes."""
    import cv2

    cv2.setNumThreads(1)

    def decoded(path: Path) -> NDArray[np.uint8]:
        return cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def by(filter_: int) -> Read:
        def read(path: Path) -> NDArray[np.uint8]:
            pixels = decoded(path)
            size = resized_size(pixels.shape[1], pixels.shape[0])
            return cropped(cv2.resize(pixels, size, interpolation=filter_))

        return read

    return {
        "OpenCV, linear": by(cv2.INTER_LINEAR),
        "OpenCV, area": by(cv2.INTER_AREA),
        "OpenCV decodes, ours resizes": lambda path: finished(decoded(path)),
    }


def torchvision_ways() -> Ways:
    """torchvision's decoder and its antialiased resize of uint8 tensors."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)

    def decoded(path: Path) -> torch.Tensor:
        file = read_file(str(path))
        return decode_jpeg(file, ImageReadMode.RGB, apply_exif_orientation=True)  # (3, H, W)

    def read(path: Path) -> NDArray[np.uint8]:
        pixels = functional.resize(decoded(path), [SPEC.resize], antialias=True)
        pixels = functional.center_crop(pixels, [SPEC.height, SPEC.width])
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())

    return {
        "torchvision": read,
        "torchvision decodes, ours resizes": lambda path: finished(
            np.ascontiguousarray(decoded(path).permute(1, 2, 0).numpy())
        ),
    }


def turbojpeg_ways(library: str | None) -> Ways:
    """libjpeg-turbo through PyTurboJPEG, which ignores EXIF; it can decode at n/8 of the size."""
    import turbojpeg

    decoder = turbojpeg.TurboJPEG(library)

    def whole(path: Path) -> NDArray[np.uint8]:
        return finished(decoder.decode(path.read_bytes(), turbojpeg.TJPF_RGB))

    def scaled(path: Path) -> NDArray[np.uint8]:
        file = path.read_bytes()
        width, height = decoder.decode_header(file)[:2]
        short = min(width, height)
        enough = [(n, d) for n, d in decoder.scaling_factors if -(-short * n // d) >= SPEC.resize]
        factor = min(enough, key=lambda f: f[0] / f[1], default=None)
        if factor is not None and factor[0] >= factor[1]:
            factor = None
        pixels = decoder.decode(file, turbojpeg.TJPF_RGB, factor)
        return resized(Image.fromarray(pixels), resized_size(width, height))

    return {
        "PyTurboJPEG decodes, ours resizes": whole,
        "PyTurboJPEG decodes at n/8, ours resizes": scaled,
    }


def vips_ways() -> Ways:
    """libvips: its linear kernel, and its thumbnails, which shrink while they decode."""
    os.environ.setdefault("VIPS_CONCURRENCY", "1")  # read once, at the import
    import pyvips

    pyvips.cache_set_max(0)  # the same files come again and again

    def linear(path: Path) -> NDArray[np.uint8]:
        image = pyvips.Image.new_from_file(str(path), access="sequential").autorot()
        width, height = resized_size(image.width, image.height)
        across, down = width / image.width, height / image.height
        image = image.resize(across, vscale=down, kernel="linear")
        left, top = corner(image.width, image.height)
        return image.crop(left, top, SPEC.width, SPEC.height).numpy()

    def thumbnail(path: Path) -> NDArray[np.uint8]:
        header = pyvips.Image.new_from_file(str(path))
        width, height = resized_size(header.width, header.height)
        image = pyvips.Image.thumbnail(str(path), width, height=height, size="force")
        return cropped(image.numpy())

    return {"pyvips, linear": linear, "pyvips, thumbnail": thumbnail}


def all_ways(library: str | None) -> tuple[Ways, dict[str, str]]:
    """Return the ways that work here, and why others do not."""
    ways, missing = pillow_ways(), {}
    others: dict[str, Callable[[], Ways]] = {
        "OpenCV": opencv_ways,
        "torchvision": torchvision_ways,
        "PyTurboJPEG": lambda: turbojpeg_ways(library),
        "pyvips": vips_ways,
    }
    for name, make in others.items():
        try:
            ways |= make()
        except (ImportError, OSError, RuntimeError) as error:  # or its C library is not
            missing[name] = f"not installed: {error}"
    return ways, missing


def draw_files(folder: Path, count: int) -> list[Path]:
    """Save pictures of the demo's set as JPEG files of ImageNet's usual size."""
    paths = []
    for seed in range(count):
        picture = draw_picture(seed, SIZE[0])[0]
        top = (SIZE[0] - SIZE[1]) // 2
        path = folder / f"{seed:04}.jpg"
        picture.crop((0, top, SIZE[0], top + SIZE[1])).save(path, quality=QUALITY)
        paths.append(path)
    return paths


def equality(read: Read, paths: list[Path]) -> dict[str, float]:
    """Return how far a way's pixels are from ours."""
    ours = pillow_ways()[OURS]
    exact, total, largest = [], [], 0
    for path in paths:
        found, wanted = read(path), ours(path)
        assert found.shape == wanted.shape == (SPEC.height, SPEC.width, 3), (path, found.shape)
        difference = np.abs(found.astype(np.int16) - wanted)
        # A pixel is equal if all three of its channels are.
        exact.append(float((difference == 0).all(axis=2).mean()))
        total.append(float(difference.mean()))
        largest = max(largest, int(difference.max()))
    return {
        "equal_pixels": statistics.mean(exact),
        "mean_difference": statistics.mean(total),
        "max_difference": largest,
    }


def measure(
    ways: Ways, paths: list[Path], threads: int, seconds: float, least: int
) -> dict[str, list[float]]:
    """Return pictures a second by way, one entry a round."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with ThreadPoolExecutor(threads) as pool:

        def once(read: Read) -> float:
            start = time.perf_counter()
            for _ in map(read, paths) if threads == 1 else pool.map(read, paths):
                pass
            return len(paths) / (time.perf_counter() - start)

        start = time.perf_counter()
        for read in ways.values():
            once(read)
        rounds = max(least, round(seconds / (time.perf_counter() - start)))
        for _ in range(rounds):
            for name in random.sample(list(ways), len(ways)):
                rates[name].append(once(ways[name]))
    return rates


def summarise(rates: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Return rates, and how many times ours they are, round by round."""
    found = {}
    for name, values in rates.items():
        ratios = [mine / ours for mine, ours in zip(values, rates[OURS], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "pictures_per_s": statistics.median(values),
            "times_ours": middle,
            "quartiles": [low, high],
        }
    return found


def show(console: Console, runs: dict[int, Any], equal: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("way")
    for threads in runs:
        table.add_column(f"pictures/s, {threads} thread{'s' * (threads > 1)}")
        table.add_column("times ours")
    for heading in ("equal pixels", "mean diff.", "max"):
        table.add_column(heading)
    for name, difference in equal.items():
        cells = []
        for found in runs.values():
            row = found[name]
            low, high = row["quartiles"]
            cells.append(f"{row['pictures_per_s']:.0f}")
            cells.append(f"{row['times_ours']:.2f} ({low:.2f} to {high:.2f})")
        share = f"{difference['equal_pixels']:.2%}"
        mean, largest = f"{difference['mean_difference']:.3f}", str(difference["max_difference"])
        table.add_row(name, *cells, share, mean, largest)
    console.print(table)


def versions(missing: dict[str, str]) -> list[str]:
    """Return the distributions that were measured."""
    names = {"torchvision": "torchvision", "PyTurboJPEG": "PyTurboJPEG", "pyvips": "pyvips",
             "OpenCV": "opencv-python-headless"}  # fmt: skip
    return ["tame-deploy", "pillow", *(d for n, d in names.items() if n not in missing)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of JPEG files")
    parser.add_argument("--count", type=int, default=64, help="how many pictures")
    parser.add_argument("--seconds", type=float, default=60, help="for each number of threads")
    parser.add_argument("--turbojpeg", help="where libturbojpeg is, if not where systems have it")
    parser.add_argument("--no-write", action="store_true", help="show the results, keep none")
    parser.add_argument("--smoke", action="store_true", help="eight pictures, nothing written")
    options = parser.parse_args()
    if options.smoke:
        options.count, options.seconds = 8, 1
    ways, missing = all_ways(options.turbojpeg)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        if options.images is None:
            paths = draw_files(Path(folder), options.count)
        else:
            suffixes = {".jpg", ".jpeg"}
            listed = sorted(p for p in options.images.iterdir() if p.suffix.lower() in suffixes)
            paths = listed[: options.count]
        equal = {name: equality(read, paths) for name, read in ways.items()}
        runs = {
            threads: summarise(measure(ways, paths, threads, options.seconds, LEAST_ROUNDS))
            for threads in sorted({1, cores})
        }
    console = Console(width=150)
    show(console, runs, equal)
    for name, why in missing.items():
        console.print(f"left out: {name}: {why}")
    facts = machine_facts(*versions(missing))
    console.print(f"{facts['processor']}, {len(paths)} pictures")
    if not (options.smoke or options.no_write):
        source = "own files" if options.images else f"drawn, {SIZE[0]}x{SIZE[1]}, q{QUALITY}"
        rows = {n: {"equality": equal[n], **{f"threads_{t}": runs[t][n] for t in runs}}
                for n in ways}  # fmt: skip
        results = {"machine": facts, "pictures": len(paths), "source": source,
                   "not_installed": missing, "ways": rows}  # fmt: skip
        console.print(str(write_results("reading", results)))


if __name__ == "__main__":
    main()
