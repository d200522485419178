"""The images of the course, as tensors, from files whose content is known to the bit.

`digits` comes with scikit-learn. `mnist`, `fashion_mnist` and `usps` read the original files: from the folder
that COURSE_DATA_DIR names (with mnist/, fashion-mnist/ and usps/ in it), else from a cache (COURSE_CACHE_DIR,
by default ~/.cache/course_lib) that downloads fill. `rotated` and `few_labels` make harder tasks of them.
Whatever is random comes from `numpy.random.RandomState`, whose stream NumPy promises never to change.
"""

import gzip
import hashlib
import http.client
import math
import os
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from tqdm.auto import tqdm

from course_lib.layout import replace_file

MIRRORS = {  # tried in this order
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    "usps": (
        "https://hastie.su.domains/ElemStatLearn/datasets/",
        "https://web.stanford.edu/~hastie/ElemStatLearn/datasets/",
    ),
}
SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    "usps": {
        "zip.train.gz": "66ebf231ab51f2cf6ac1a892d0f98ccffee1079d7a5db638c1f11f366046ca16",
        "zip.test.gz": "8dacc3c6e136af6c3488de9e5113a7daf140c8c2f1f0b61c54ee02f03f1a962f",
    },
}
SILENCE, PATIENCE = 10.0, 600.0  # a mirror is given up after so many seconds without a byte, or with one file


class Split(NamedTuple):
    """Images `x`, float32 with values in [0, 1], and their classes `y`, int64 from 0."""

    x: Float[Tensor, "n 1 height width"]
    y: Int64[Tensor, " n"]


class ImageData(NamedTuple):
    """A task. Where the source sets no validation images aside, `validation` is None."""

    train: Split
    validation: Split | None
    test: Split


def digits(*, seed: int = 0) -> ImageData:
    """Handwritten digits, 8x8 (Alpaydin & Kaynak 1998): the 1797 in scikit-learn, half for training.

    A value is the inked share of a 4x4 block of the scanned bitmap. The split is ours: random, every class
    halved. It is not by writer: hands met in training are met again in testing, so errors look small.

    Returns:
        train (899, 1, 8, 8), no validation, test (898, 1, 8, 8); values k/16 in [0, 1].

    Example:
        >>> train, _, test = digits()
        >>> train.x.shape, test.x.shape
        (torch.Size([899, 1, 8, 8]), torch.Size([898, 1, 8, 8]))
        >>> train.y.bincount()
        tensor([89, 91, 88, 92, 91, 91, 91, 89, 87, 90])
    """
    source = load_digits()
    x = torch.from_numpy(source.images).float().unsqueeze(1) / 16  # (1797, 1, 8, 8)
    y = torch.from_numpy(source.target).long()
    train, test = train_test_split(np.arange(len(y)), train_size=899, stratify=y, random_state=seed)
    return ImageData(Split(x[train], y[train]), None, Split(x[test], y[test]))


def mnist() -> ImageData:
    """Handwritten digits, 28x28 (LeCun, Bottou, Bengio & Haffner 1998), in the official split.

    Returns:
        train (60000, 1, 28, 28), no validation, test (10000, 1, 28, 28); values k/255 in [0, 1].

    Raises:
        ValueError: A file in COURSE_DATA_DIR is not the original.
        ConnectionError: A file is not on this machine, and no mirror gave it.
    """
    return ImageData(_idx_split("mnist", "train"), None, _idx_split("mnist", "t10k"))


def fashion_mnist() -> ImageData:
    """Ten kinds of clothing, 28x28 (Xiao, Rasul & Vollgraf 2017), in the official split.

    Returns:
        train (60000, 1, 28, 28), no validation, test (10000, 1, 28, 28); values k/255 in [0, 1].

    Raises:
        ValueError: A file in COURSE_DATA_DIR is not the original.
        ConnectionError: A file is not on this machine, and no mirror gave it.
    """
    return ImageData(_idx_split("fashion-mnist", "train"), None, _idx_split("fashion-mnist", "t10k"))


def usps() -> ImageData:
    """Digits of zip codes, 16x16 (Hull 1994), in the copy of *The Elements of Statistical Learning*.

    Returns:
        train (7291, 1, 16, 16), no validation, test (2007, 1, 16, 16); values in [0, 1]: (v + 1) / 2 of the
        file's v in [-1, 1], so that paper is 0 and ink is 1 here too.

    Raises:
        ValueError: A file in COURSE_DATA_DIR is not the original.
        ConnectionError: A file is not on this machine, and no mirror gave it.
    """
    return ImageData(_usps_split("zip.train.gz"), None, _usps_split("zip.test.gz"))


def rotated(
    data: ImageData | None = None,
    *,
    seed: int = 0,
    train: int = 10_000,
    validation: int = 2_000,
    test: int = 50_000,
) -> ImageData:
    """Rotated MNIST, made anew after Larochelle, Erhan, Courville, Bergstra & Bengio (2007).

    As in the original, all of `data` (by default MNIST's 70 000) is one pool: test images come from its train
    part too. Every image gets an angle uniform in [0, 2π) radians; a permutation of the pool is dealt to the
    three parts. The draws are not those of the original file: say so beside a published number.

    Returns:
        Disjoint parts of the sizes asked for, height and width as in `data`; values in [0, 1].

    Raises:
        ValueError: A size is below 1, or the three need more images than there are.

    Example:
        >>> [len(part.y) for part in rotated(digits(), train=100, validation=20, test=500)]
        [100, 20, 500]
    """
    x, y = map(torch.cat, zip(*(part for part in data or mnist() if part is not None), strict=True))
    sizes = [train, validation, test]
    if min(sizes) < 1 or sum(sizes) > len(y):
        raise ValueError(
            f"Parts are disjoint and not empty. Wanted sizes of at least 1 with a sum of at most {len(y)}, "
            f"got train, validation, test = {sizes}. Ask for fewer images."
        )
    random = np.random.RandomState(seed)
    dealt = torch.from_numpy(random.permutation(len(y))).to(y.device)[: sum(sizes)].split(sizes)
    radians = torch.from_numpy(random.uniform(0, 2 * math.pi, len(y))).to(x.device)
    # Interpolation weights sum to 1 only up to rounding; the clamp keeps the range.
    return ImageData(*(Split(rotate(x[part], radians[part]).clamp_(0, 1), y[part]) for part in dealt))


def rotate(
    x: Float[Tensor, "n channels height width"], radians: Float[Tensor, " n"]
) -> Float[Tensor, "n channels height width"]:
    """Turns each image about its centre by its own angle, counter-clockwise as it is displayed.

    A quarter turn is `torch.rot90(x, 1, (-2, -1))`. Bilinear between pixel centres, 0 outside the image.
    align_corners is False in both steps: ±1 are the outer edges of the image, not the centres of its border
    pixels. Differentiable in both arguments.

    Raises:
        ValueError: There is not one angle for each image.

    Example:
        >>> rotate(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([math.pi / 2])).round(decimals=4)
        tensor([[[[2., 4.],
                  [1., 3.]]]])
    """
    if x.ndim != 4 or radians.shape != x.shape[:1]:
        raise ValueError(
            f"Each image has one angle. Wanted x (n, channels, height, width) and radians (n,), got "
            f"{tuple(x.shape)} and {tuple(radians.shape)}. Give one angle to all by radians.expand(len(x))."
        )
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    aspect = x.shape[-2] / x.shape[-1]  # grids measure in half heights and half widths, a rotation in pixels
    # From a point (right, down) of the output to its source in the input: the turn backwards.
    source = torch.stack([cos, -sin * aspect, zero, sin / aspect, cos, zero], dim=1).view(-1, 2, 3).to(x)
    turned = []
    for images, matrices in zip(x.split(4096), source.split(4096), strict=True):  # grids are large
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)  # (n, height, width, 2)
        turned.append(F.grid_sample(images, grid, align_corners=False))
    return torch.cat(turned)


def few_labels(split: Split, per_class: int, *, seed: int = 0) -> Split:
    """A random subset with `per_class` images of every class in `split`, the classes mixed.

    Under one seed the subsets are nested: the 5 of a class are among its 10.

    Returns:
        per_class times as many images as there are classes; shapes and ranges as in `split`.

    Raises:
        ValueError: per_class is below 1, or some class has fewer images.

    Example:
        >>> few_labels(digits().train, per_class=5).y.bincount()
        tensor([5, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    """
    classes, counts = split.y.unique(return_counts=True)
    fewest = min(counts.tolist(), default=0)
    if not 1 <= per_class <= fewest:
        raise ValueError(
            f"Every class gives equally many images. Wanted per_class from 1 to {fewest}, the size of the "
            f"smallest class, got {per_class}. Ask for fewer, or draw from a larger split."
        )
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(split.y))).to(split.y.device)
    shuffled = split.y[order]
    places = torch.cat([(shuffled == label).nonzero().squeeze(1)[:per_class] for label in classes])
    chosen = order[places.sort().values]
    return Split(split.x[chosen], split.y[chosen])


def _idx_split(dataset: str, part: str) -> Split:
    images = _read_idx(_fetch(dataset, f"{part}-images-idx3-ubyte.gz"))
    labels = _read_idx(_fetch(dataset, f"{part}-labels-idx1-ubyte.gz"))
    x = torch.from_numpy(images.astype(np.float32)).unsqueeze(1).div_(255)
    return Split(x, torch.from_numpy(labels.astype(np.int64)))


def _read_idx(packed: bytes) -> np.ndarray:
    """Two zero bytes, 8 for uint8, the rank; then the sizes, big-endian int32; then the values."""
    raw = gzip.decompress(packed)
    sizes = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sizes)


def _usps_split(name: str) -> Split:
    """A line is a label and 256 values, row by row."""
    lines = gzip.decompress(_fetch("usps", name)).decode().splitlines()
    table = torch.from_numpy(np.loadtxt(lines, dtype=np.float32))
    return Split((table[:, 1:].reshape(-1, 1, 16, 16) + 1) / 2, table[:, 0].long())


def _fetch(dataset: str, name: str) -> bytes:
    """The verified content of an original file, from the first place that has it; a download is cached."""
    wanted = SHA256[dataset][name]
    own = os.environ.get("COURSE_DATA_DIR")
    cache = os.environ.get("COURSE_CACHE_DIR") or "~/.cache/course_lib"
    paths = [Path(folder).expanduser() / dataset / name for folder in (own, cache) if folder]
    addresses = [mirror + name for mirror in MIRRORS[dataset]]
    tried = []
    for place in [*paths, *addresses]:
        try:
            content = _download(place) if place in addresses else place.read_bytes()
        except (OSError, http.client.HTTPException, ValueError) as error:
            tried.append(f"{place}: {error!r}")
            continue
        got = hashlib.sha256(content).hexdigest()
        if got == wanted:
            if place in addresses:
                _keep(paths[-1], content)
            return content
        if own and place == paths[0]:  # the reader's own file is the reader's to delete
            raise ValueError(
                f"{place} is not the original file. Wanted sha256 {wanted}, got {got} ({len(content)} B). "
                f"Delete it and download it from {' or '.join(addresses)}, or unset COURSE_DATA_DIR."
            )
        tried.append(f"{place}: {len(content)} bytes with sha256 {got}")
    raise ConnectionError(
        "\n  ".join([f"{dataset}/{name} with sha256 {wanted} is in none of these places:", *tried])
        + "\nConnect to the network, or download the file elsewhere and set COURSE_DATA_DIR to the folder "
        f"in which it is {dataset}/{name}."
    )


def _download(address: str) -> bytes:
    """All the bytes at an address, in memory: the disk sees none before their sha256 is right."""
    # Under urllib's own name some hosts answer 403.
    request = urllib.request.Request(address, headers={"User-Agent": "course_lib"})
    content, start = bytearray(), time.monotonic()
    with urllib.request.urlopen(request, timeout=SILENCE) as response:
        size = int(response.headers["Content-Length"] or 0)
        with tqdm(total=size or None, desc=address, unit="B", unit_scale=True, leave=False) as progress:
            while piece := response.read1(1 << 16):
                content += piece
                progress.update(len(piece))
                if time.monotonic() - start > PATIENCE:
                    raise TimeoutError(f"only {len(content)} bytes in {PATIENCE:g} seconds")
    if len(content) < size:
        raise ConnectionError(f"closed after {len(content)} of {size} bytes")
    return bytes(content)


def _keep(path: Path, content: bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        error.add_note("Set COURSE_CACHE_DIR to a folder that can be written, with 50 MB free.")
        raise
