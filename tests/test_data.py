"""course_lib.data against a hostile local server, the original files where they are here, and geometry."""

import gzip
import hashlib
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from course_lib import data
from course_lib.data import ImageData, Split

REPOSITORY = Path(__file__).resolve().parents[1]
ORIGINALS = REPOSITORY.parent / "shared" / "data"
FIRST = "train-images-idx3-ubyte.gz"  # the first file that mnist() asks for


# ---------------------------------------------------------------- a server that misbehaves on request


class Server(ThreadingHTTPServer):
    """Serves `files[path]`: bytes, or a function that gets the handler and misbehaves."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.agents, self.closing = {}, Counter(), set(), threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request, client_address):
        """A client that hung up is what some tests want; keep the output quiet."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests[self.path] += 1
        self.server.agents.add(self.headers["User-Agent"])
        content = self.server.files.get(self.path)
        if callable(content):
            content(self)
        elif content is None:
            self.send_error(404)
        else:
            self.reply(content)

    def reply(self, body: bytes, length: int | None = None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def cut_off(content):
    return lambda handler: handler.reply(content[:-7], length=len(content))


def shorter(content):
    return lambda handler: handler.reply(content[:-7])


def corrupt(content):
    return lambda handler: handler.reply(content[:-1] + bytes([content[-1] ^ 1]))


def login_page(content):
    return lambda handler: handler.reply(b"<html>Please accept the terms of this hotel.</html>")


def missing(content):
    return lambda handler: handler.send_error(404)


def broken(content):
    return lambda handler: handler.send_error(503)


def hangs_up(content):
    return lambda handler: handler.connection.close()


def silent(content):
    return lambda handler: handler.server.closing.wait(30)


def stalls(content):
    def answer(handler):
        handler.reply(content[:5], length=len(content))
        handler.wfile.flush()
        handler.server.closing.wait(30)

    return answer


def drips(content):
    def answer(handler):
        handler.reply(b"", length=len(content))
        for byte in content:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if handler.server.closing.wait(0.05):
                return

    return answer


def nonsense(content):
    def answer(handler):
        handler.wfile.write(b"SSH-2.0-not a web server\r\n")

    return answer


def bad_length(content):
    return lambda handler: handler.reply(content, length="many")


FAULTS = {
    cut_off: r"after \d+ of \d+ bytes|IncompleteRead",
    shorter: r"\d+ bytes with sha256 [0-9a-f]{64}",
    corrupt: r"\d+ bytes with sha256 [0-9a-f]{64}",
    login_page: r"51 bytes with sha256 [0-9a-f]{64}",
    missing: r"HTTPError 404",
    broken: r"HTTPError 503",
    hangs_up: r"RemoteDisconnected",
    silent: r"timed out",
    stalls: r"timed out",
    drips: r"only \d+ bytes in 0.7 seconds",
    nonsense: r"BadStatusLine",
    bad_length: r"ValueError",
}


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.__name__)
def fault(request, monkeypatch):
    """Each fault in turn; only for the slow ones is patience short, so that a busy machine passes the others."""
    if request.param in (silent, stalls, drips):
        monkeypatch.setattr(data, "SILENCE", 0.7)
        monkeypatch.setattr(data, "PATIENCE", 0.7)
    return request.param


@pytest.fixture
def servers():
    """A good mirror and, before it, one for each test to spoil."""
    both = Server(), Server()
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in both]
    for thread in threads:
        thread.start()
    yield both
    for server in both:
        server.closing.set()
        server.shutdown()
        server.server_close()
    for thread in threads:
        thread.join()


def idx(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return gzip.compress(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes(), mtime=0)


@pytest.fixture
def tiny(monkeypatch, tmp_path, servers):
    """MNIST with 5 + 3 images of 4x6 pixels: name to content, on both mirrors; no folder, an empty cache."""
    random = np.random.RandomState(7)
    contents = {}
    for part, size in {"train": 5, "t10k": 3}.items():
        contents[f"{part}-images-idx3-ubyte.gz"] = idx(random.randint(0, 256, (size, 4, 6), dtype=np.uint8))
        contents[f"{part}-labels-idx1-ubyte.gz"] = idx(random.randint(0, 10, size, dtype=np.uint8))
    for name, content in contents.items():
        monkeypatch.setitem(data.SHA256["mnist"], name, hashlib.sha256(content).hexdigest())
    for server in servers:
        server.files = {f"/{name}": content for name, content in contents.items()}
    monkeypatch.setitem(data.MIRRORS, "mnist", tuple(server.address for server in servers))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("COURSE_DATA_DIR", raising=False)
    monkeypatch.setenv("COURSE_CACHE_DIR", str(tmp_path / "cache"))
    return contents


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, contents: dict[str, bytes]) -> Path:
    (folder / "mnist").mkdir(parents=True)
    for name, content in contents.items():
        (folder / "mnist" / name).write_bytes(content)
    return folder


def same(one: ImageData, other: ImageData) -> bool:
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None or b is not None]
    return all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in pairs)


def test_download_gives_the_tensors_and_fills_the_cache(tiny, servers, tmp_path):
    train, validation, test = data.mnist()
    raw = np.frombuffer(gzip.decompress(tiny[FIRST]), np.uint8, offset=16).reshape(5, 1, 4, 6)
    np.testing.assert_allclose(train.x.numpy(), raw / 255, atol=1e-7)
    assert train.x.dtype == torch.float32 and train.y.dtype == torch.int64
    assert train.y.tolist() == list(gzip.decompress(tiny["train-labels-idx1-ubyte.gz"])[8:])
    assert validation is None and test.x.shape == (3, 1, 4, 6) and test.y.shape == (3,)
    assert files(tmp_path / "cache" / "mnist") == tiny, "the cache holds the four files and nothing else"
    assert servers[1].requests.total() == 0, "the second mirror is asked only after the first failed"
    assert not any(agent.startswith("Python-urllib") for agent in servers[0].agents)


def test_second_reading_asks_no_server(tiny, servers):
    first = data.mnist()
    assert servers[0].requests == {f"/{name}": 1 for name in tiny}
    assert same(first, data.mnist())
    assert servers[0].requests.total() == 4


def test_next_mirror_after_a_fault(tiny, servers, tmp_path, fault):
    servers[0].files["/" + FIRST] = fault(tiny[FIRST])
    assert data.mnist().train.x.shape == (5, 1, 4, 6)
    assert servers[1].requests == {"/" + FIRST: 1}
    assert files(tmp_path / "cache") == tiny


def test_every_mirror_at_fault(tiny, servers, tmp_path, fault):
    servers[0].files["/" + FIRST] = fault(tiny[FIRST])
    servers[1].files["/" + FIRST] = missing(tiny[FIRST])
    start = time.monotonic()
    with pytest.raises(ConnectionError) as caught:
        data.mnist()
    assert time.monotonic() - start < 5, "a mirror that only drips is left long before its last byte"
    lines = str(caught.value).splitlines()
    assert f"mnist/{FIRST}" in lines[0] and data.SHA256["mnist"][FIRST] in lines[0]
    assert str(tmp_path / "cache" / "mnist" / FIRST) in lines[1] and "No such file" in lines[1]
    assert servers[0].address + FIRST in lines[2] and re.search(FAULTS[fault], lines[2])
    assert servers[1].address + FIRST in lines[3] and "404" in lines[3]
    assert "COURSE_DATA_DIR" in lines[4]
    assert files(tmp_path) == {}, "nothing bad reaches the disk"


def test_no_server_at_all(tiny, monkeypatch):
    server = Server()
    server.server_close()  # a port where nobody listens
    monkeypatch.setitem(data.MIRRORS, "mnist", (server.address, "no address", "https://name.invalid/"))
    with pytest.raises(ConnectionError, match="(?s)refused.*unknown url type.*name.invalid"):
        data.mnist()


# ---------------------------------------------------------------- the folder and the cache


def test_folder_comes_first(tiny, servers, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA_DIR", str(fill(tmp_path / "own", tiny)))
    data.mnist()
    assert servers[0].requests.total() == 0 and not (tmp_path / "cache").exists()


def test_folder_comes_before_a_cache(tiny, monkeypatch, tmp_path):
    fill(tmp_path / "cache", tiny)
    monkeypatch.setenv("COURSE_DATA_DIR", str(fill(tmp_path / "own", {FIRST: b"not the original"})))
    with pytest.raises(ValueError, match="own"):
        data.mnist()


def test_what_the_folder_lacks_goes_to_the_cache(tiny, servers, monkeypatch, tmp_path):
    kept = {name: content for name, content in tiny.items() if name != FIRST}
    monkeypatch.setenv("COURSE_DATA_DIR", str(fill(tmp_path / "own", kept)))
    data.mnist()
    assert servers[0].requests == {"/" + FIRST: 1}
    assert files(tmp_path / "own") == kept and files(tmp_path / "cache") == {FIRST: tiny[FIRST]}


def test_failure_names_the_place_in_the_folder(tiny, servers, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "mistyped"))
    for server in servers:
        server.files.clear()
    with pytest.raises(ConnectionError, match=re.escape(str(tmp_path / "mistyped" / "mnist" / FIRST))):
        data.mnist()


@pytest.mark.parametrize("spoil", [lambda c: c[:-7], lambda c: c[:-1] + b"?", lambda c: b""])
def test_bad_file_in_the_folder_raises_and_stays(tiny, servers, monkeypatch, tmp_path, spoil):
    bad = tiny | {FIRST: spoil(tiny[FIRST])}
    monkeypatch.setenv("COURSE_DATA_DIR", str(fill(tmp_path / "own", bad)))
    with pytest.raises(ValueError) as caught:
        data.mnist()
    message = str(caught.value)
    assert str(tmp_path / "own" / "mnist" / FIRST) in message
    assert f"anted sha256 {data.SHA256['mnist'][FIRST]}" in message
    assert f"got {hashlib.sha256(bad[FIRST]).hexdigest()} ({len(bad[FIRST])} B)" in message
    assert "Delete" in message and "COURSE_DATA_DIR" in message
    assert all(server.address + FIRST in message for server in servers)
    assert files(tmp_path / "own") == bad and servers[0].requests.total() == 0


def test_bad_file_in_the_cache_is_replaced(tiny, servers, tmp_path):
    fill(tmp_path / "cache", tiny | {FIRST: tiny[FIRST][:-7]})
    data.mnist()
    assert servers[0].requests == {"/" + FIRST: 1}
    assert files(tmp_path / "cache") == tiny


def test_bad_file_in_the_cache_and_no_network(tiny, servers, tmp_path):
    fill(tmp_path / "cache", {FIRST: b"bad"})
    for server in servers:
        server.files.clear()
    wrong = f"{tmp_path / 'cache' / 'mnist' / FIRST}: 3 bytes with sha256 {hashlib.sha256(b'bad').hexdigest()}"
    with pytest.raises(ConnectionError, match=re.escape(wrong)):
        data.mnist()


@pytest.mark.parametrize("named", [None, ""])
def test_cache_in_the_home_folder(tiny, monkeypatch, tmp_path, named):
    if named is None:
        monkeypatch.delenv("COURSE_CACHE_DIR")
    else:
        monkeypatch.setenv("COURSE_CACHE_DIR", named)
    monkeypatch.setenv("COURSE_DATA_DIR", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    data.mnist()
    assert files(tmp_path / ".cache" / "course_lib" / "mnist") == tiny


def test_cache_that_cannot_be_written(tiny, monkeypatch, tmp_path):
    (tmp_path / "a file").write_text("in the way")
    monkeypatch.setenv("COURSE_CACHE_DIR", str(tmp_path / "a file"))
    with pytest.raises(OSError, match="a file") as caught:
        data.mnist()
    assert "COURSE_CACHE_DIR" in caught.value.__notes__[0]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are of POSIX")
def test_cache_can_be_shared(tiny, tmp_path):
    before = os.umask(0o022)
    try:
        data.mnist()
    finally:
        os.umask(before)
    assert (tmp_path / "cache" / "mnist" / FIRST).stat().st_mode & 0o777 == 0o644


# ---------------------------------------------------------------- interruptions and rivals


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
def test_interrupted_write_leaves_nothing(tiny, monkeypatch, tmp_path, function, error):
    def interrupt(*arguments):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(data.os, function, interrupt)
        data.mnist()
    assert files(tmp_path) == {}
    data.mnist()
    assert files(tmp_path / "cache") == tiny


def child(servers, tiny, before: str = "") -> subprocess.Popen:
    """A fresh process that calls mnist() with this test's mirrors and hashes."""
    hashes = {name: data.SHA256["mnist"][name] for name in tiny}
    program = f"""
import os, signal
from course_lib import data
data.MIRRORS["mnist"], data.SHA256["mnist"] = {data.MIRRORS["mnist"]!r}, {hashes!r}
{before}
print(data.mnist().train.y.tolist())
"""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_half_way_leaves_no_file_under_the_name(tiny, servers, tmp_path):
    killed = child(servers, tiny, "data.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert FIRST not in files(tmp_path / "cache"), "only a .part file may stay"
    data.mnist()
    assert tiny.items() <= files(tmp_path / "cache").items()


def test_two_processes_at_once(tiny, servers, tmp_path):
    meeting = threading.Barrier(2)

    def wait_for_both(handler):
        meeting.wait(60)  # neither gets the first file before both have asked for it
        handler.reply(tiny[FIRST])

    servers[0].files["/" + FIRST] = wait_for_both
    rivals = [child(servers, tiny, "data.SILENCE = data.PATIENCE = 60") for _ in range(2)]
    outputs = [rival.communicate(timeout=90) for rival in rivals]
    labels = list(gzip.decompress(tiny["train-labels-idx1-ubyte.gz"])[8:])
    assert [rival.returncode for rival in rivals] == [0, 0], outputs
    assert [output for output, _ in outputs] == [f"{labels}\n"] * 2
    assert servers[0].requests["/" + FIRST] == 2
    assert files(tmp_path / "cache") == tiny


# ---------------------------------------------------------------- the original files


@pytest.fixture(scope="module")
def originals():
    """The three data sets, each read once."""
    if not ORIGINALS.is_dir():
        pytest.skip(f"the original files are not on this machine: no {ORIGINALS}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_DATA_DIR", str(ORIGINALS))
        patch.setattr(data, "MIRRORS", dict.fromkeys(data.MIRRORS, ()))
        return {"mnist": data.mnist(), "fashion-mnist": data.fashion_mnist(), "usps": data.usps()}


def test_hashes_are_those_of_the_original_files(originals):
    for dataset, hashes in data.SHA256.items():
        lines = (ORIGINALS / dataset / "CHECKSUMS.sha256").read_text().splitlines()
        published = {name: digest for digest, name in map(str.split, lines)}
        assert hashes.items() <= published.items()


EXPECTED = {  # side, sizes, first labels of train and test, class counts of train and test as published
    "mnist": (
        28,
        [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
        [7, 2, 1, 0, 4, 1, 4, 9, 5, 9],
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ),
    "fashion-mnist": (
        28,
        [9, 0, 0, 3, 0, 2, 7, 2, 5, 5],
        [9, 2, 1, 1, 6, 1, 4, 6, 5, 7],
        [6000] * 10,
        [1000] * 10,
    ),
    "usps": (
        16,
        [6, 5, 4, 7, 3, 6, 3, 1, 0, 1],
        [9, 6, 3, 6, 6, 0, 0, 0, 6, 9],
        [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644],
        [359, 264, 198, 166, 200, 160, 170, 147, 166, 177],
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_originals(originals, name):
    side, train_first, test_first, train_counts, test_counts = EXPECTED[name]
    train, validation, test = originals[name]
    assert validation is None
    for split, first, counts in [(train, train_first, train_counts), (test, test_first, test_counts)]:
        assert split.x.shape == (sum(counts), 1, side, side) and split.y.shape == (sum(counts),)
        assert split.x.dtype == torch.float32 and split.y.dtype == torch.int64
        assert split.x.min() == 0 and split.x.max() == 1
        assert split.y[:10].tolist() == first and split.y.bincount().tolist() == counts


@pytest.mark.parametrize("name, mean, deviation", [("mnist", 0.1307, 0.3081), ("fashion-mnist", 0.2860, 0.3530)])
def test_published_mean_and_deviation(originals, name, mean, deviation):
    x = originals[name].train.x
    assert x.mean().item() == pytest.approx(mean, abs=1e-4) and x.std().item() == pytest.approx(deviation, abs=1e-4)


def test_usps_error_of_one_nearest_neighbour(originals):
    train, _, test = originals["usps"]
    nearest = torch.cdist(test.x.flatten(1).double(), train.x.flatten(1).double()).argmin(dim=1)
    assert (train.y[nearest] != test.y).sum() == 113  # 5.63 %


def test_images_are_upright(originals):
    """A transposed or mirrored reader passes every count above."""
    for name in ["mnist", "usps"]:
        train = originals[name].train
        seven, one = (train.x[train.y == label].mean(dim=(0, 1)) for label in (7, 1))
        rows, columns, half = seven.sum(dim=1), seven.sum(dim=0), len(seven) // 2
        assert rows[:half].sum() > 1.1 * rows[half:].sum(), "a seven is heavy on top"
        assert columns[half:].sum() > 1.3 * columns[:half].sum(), "a seven is heavy on the right"
        height, width = ((one.sum(dim=axis) > one.sum(dim=axis).max() / 2).sum() for axis in (1, 0))
        assert height > 3 * width, "a one is taller than wide"


def test_rotated_mnist(originals):
    parts = data.rotated(originals["mnist"])
    assert [part.x.shape for part in parts] == [(n, 1, 28, 28) for n in (10_000, 2_000, 50_000)]
    for part in parts:
        assert part.x.dtype == torch.float32 and 0 <= part.x.min() and part.x.max() <= 1
    ink = originals["mnist"].train.x.mean()
    assert parts.test.x.mean().item() == pytest.approx(ink.item(), rel=0.02), "a turn about the centre keeps ink"
    assert parts.train.y[:10].tolist() == [0, 4, 1, 2, 7, 9, 7, 1, 1, 7], "the draw of seed 0 has changed"
    assert parts.test.y[-10:].tolist() == [3, 9, 9, 7, 9, 0, 9, 1, 8, 9], "the draw of seed 0 has changed"


# ---------------------------------------------------------------- digits


def test_digits():
    train, validation, test = data.digits()
    assert validation is None
    assert train.x.shape == (899, 1, 8, 8) and test.x.shape == (898, 1, 8, 8)
    for split in (train, test):
        assert split.x.dtype == torch.float32 and split.y.dtype == torch.int64
        assert split.x.min() == 0 and split.x.max() == 1 and torch.equal(split.x * 16, (split.x * 16).round())
    assert (train.y.bincount() - test.y.bincount()).abs().max() <= 2, "each class is halved"


def test_digits_parts_are_disjoint_and_complete():
    train, _, test = data.digits(seed=3)
    source = data.load_digits()
    everything = torch.cat([train.x, test.x]).flatten(1) * 16
    labelled = sorted(zip(everything.tolist(), torch.cat([train.y, test.y]).tolist(), strict=True))
    assert labelled == sorted(zip(source.data.tolist(), source.target.tolist(), strict=True))


def test_digits_depend_on_the_seed_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    first = data.digits(seed=1)
    torch.manual_seed(1)
    np.random.seed(1)
    assert same(first, data.digits(seed=1)) and not same(first, data.digits(seed=2))


# ---------------------------------------------------------------- rotate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [7, 8, 28])
@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 4])
def test_quarter_turns(turns, side, dtype):
    x = torch.rand(3, 2, side, side, dtype=dtype, generator=torch.Generator().manual_seed(0))
    turned = data.rotate(x, torch.full((3,), turns * math.pi / 2, dtype=dtype))
    assert turned.dtype == dtype
    torch.testing.assert_close(turned, torch.rot90(x, turns, (-2, -1)), atol=1e-5, rtol=0)


def test_quarter_turn_of_an_oblong_image():
    """Pixels are square: turned, a 5x9 image stands 9 high in its frame of 5, and is cut off, not squeezed."""
    x = torch.rand(1, 1, 5, 9, generator=torch.Generator().manual_seed(0))
    wanted = torch.zeros_like(x)
    wanted[..., 2:7] = torch.rot90(x, 1, (-2, -1))[..., 2:7, :]
    torch.testing.assert_close(data.rotate(x, torch.tensor([math.pi / 2])), wanted, atol=1e-5, rtol=0)


def blobs(n: int, side: int = 28) -> torch.Tensor:
    """A Gaussian, 7 pixels to the right of the centre."""
    at = torch.arange(side) - (side - 1) / 2
    return torch.exp(-(at[:, None] ** 2 + (at[None, :] - 7) ** 2) / 4).expand(n, 1, side, side).clone()


def angles(x: torch.Tensor) -> torch.Tensor:
    """Direction of the centre of mass, counter-clockwise from the right, in [0, 2π)."""
    at = torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
    right, up = (x * at[None, :]).sum(dim=(1, 2, 3)), -(x * at[:, None]).sum(dim=(1, 2, 3))
    return torch.atan2(up, right) % (2 * math.pi)


def test_any_angle_counter_clockwise():
    radians = torch.linspace(0.05, 6.2, 200)
    torch.testing.assert_close(angles(data.rotate(blobs(200), radians)), radians, atol=2e-3, rtol=0)


def test_each_image_has_its_own_angle_beyond_a_chunk():
    x = torch.rand(4100, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    turns = torch.arange(4100) % 4
    turned = data.rotate(x, turns * math.pi / 2)
    for k in range(4):
        wanted = torch.rot90(x[turns == k], k, (-2, -1))
        torch.testing.assert_close(turned[turns == k], wanted, atol=1e-5, rtol=0)


def test_outside_is_zero():
    corner = data.rotate(torch.ones(1, 1, 9, 9), torch.tensor([math.pi / 4]))[0, 0]
    assert corner[0, 0] == 0 and corner[4, 4] == pytest.approx(1)


def test_rotate_is_differentiable():
    x = torch.rand(2, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    radians = torch.tensor([0.3, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(data.rotate, (x.requires_grad_(), radians.requires_grad_()))


@pytest.mark.parametrize("shape, angles", [((2, 1, 4, 4), (3,)), ((2, 1, 4, 4), ()), ((2, 4, 4), (2,))])
def test_rotate_wants_an_angle_for_each_image(shape, angles):
    with pytest.raises(ValueError, match=rf"one angle.*{re.escape(str(shape))}.*expand"):
        data.rotate(torch.zeros(shape), torch.zeros(angles))


# ---------------------------------------------------------------- rotated


def numbered(train: int, test: int, validation: int | None = None) -> ImageData:
    """Blobs whose class is their number in the pool, so that each can be found again."""
    sizes = [train, validation or 0, test]
    images, numbers = blobs(sum(sizes)).split(sizes), torch.arange(sum(sizes)).split(sizes)
    first, second, third = map(Split, images, numbers)
    return ImageData(first, None if validation is None else second, third)


def test_rotated_draws_disjoint_parts_from_the_whole_pool():
    parts = data.rotated(numbered(60, 40, validation=20), train=50, validation=30, test=40)
    assert [len(part.x) for part in parts] == [len(part.y) for part in parts] == [50, 30, 40]
    assert sorted(torch.cat([part.y for part in parts]).tolist()) == list(range(120))
    for part in parts:
        assert min(part.y) < 60 and max(part.y) >= 80, "every part draws from MNIST's train and test"


def test_rotated_turns_by_uniform_angles():
    parts = data.rotated(numbered(1500, 500), train=1000, validation=500, test=500)
    found = torch.cat([angles(part.x) for part in parts]).sort().values / (2 * math.pi)
    gap = (found - torch.arange(2000) / 2000).abs().max()
    assert gap < 1.63 / math.sqrt(2000), "Kolmogorov-Smirnov rejects uniformity at 1 %"


def test_rotated_depends_on_the_seed_alone():
    source, sizes = numbered(60, 40), {"train": 20, "validation": 10, "test": 30}
    untouched = ImageData(*(part and Split(part.x.clone(), part.y.clone()) for part in source))
    torch.manual_seed(0)
    first = data.rotated(source, seed=5, **sizes)
    torch.manual_seed(1)
    assert same(first, data.rotated(source, seed=5, **sizes))
    other = data.rotated(source, seed=6, **sizes)
    assert not torch.equal(first.train.y, other.train.y)
    assert same(source, untouched), "the images given are left as they were"


def test_rotated_keeps_images_with_their_classes():
    """Images of one brightness each: no turn changes the centre pixel."""
    level = torch.linspace(0.1, 1, 50)
    x = level.view(-1, 1, 1, 1).expand(50, 1, 9, 9)
    source = ImageData(Split(x[:30], torch.arange(30)), None, Split(x[30:], torch.arange(30, 50)))
    for part in data.rotated(source, train=20, validation=10, test=20):
        torch.testing.assert_close(part.x[:, 0, 4, 4], level[part.y])


def test_rotated_keeps_the_range():
    """On white images of side 9, about one weighted mean in a thousand rounds to more than 1."""
    white = Split(torch.ones(2000, 1, 9, 9), torch.zeros(2000, dtype=torch.int64))
    for part in data.rotated(ImageData(white, None, white), train=2000, validation=1000, test=1000):
        assert 0 <= part.x.min() and part.x.max() == 1


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, -1), (50, 40, 11)])
def test_rotated_refuses_sizes(sizes):
    with pytest.raises(ValueError, match=rf"at most 100.*{re.escape(str(list(sizes)))}"):
        data.rotated(numbered(60, 40), train=sizes[0], validation=sizes[1], test=sizes[2])


# ---------------------------------------------------------------- few_labels


@pytest.mark.parametrize("per_class", [1, 2, 10, 87])
def test_few_labels_are_balanced_and_drawn_from_the_split(per_class):
    split = data.digits().train
    few = data.few_labels(split, per_class)
    assert few.x.shape == (10 * per_class, 1, 8, 8)
    assert few.y.bincount().tolist() == [per_class] * 10
    number = Split(torch.arange(len(split.y)).view(-1, 1, 1, 1), split.y)
    chosen = data.few_labels(number, per_class).x.flatten()
    assert len(chosen.unique()) == 10 * per_class, "no image twice"
    assert torch.equal(split.x[chosen], few.x) and torch.equal(split.y[chosen], few.y)


def test_few_labels_are_nested_and_mixed():
    number = Split(torch.arange(899).view(-1, 1, 1, 1), data.digits().train.y)
    chosen = [set(data.few_labels(number, k).x.flatten().tolist()) for k in (1, 5, 20)]
    assert chosen[0] < chosen[1] < chosen[2]
    few = data.few_labels(number, 20).y
    assert not torch.equal(few, few.sort().values)


def test_few_labels_depend_on_the_seed_alone():
    split = data.digits().train
    torch.manual_seed(0)
    first = data.few_labels(split, 5, seed=1)
    torch.manual_seed(1)
    assert torch.equal(first.x, data.few_labels(split, 5, seed=1).x)
    assert not torch.equal(first.x, data.few_labels(split, 5, seed=2).x)


def test_few_labels_is_fair():
    """Over many seeds every image is chosen about equally often."""
    number = Split(torch.arange(30).view(-1, 1, 1, 1), torch.arange(30) % 3)
    drawn = torch.cat([data.few_labels(number, 2, seed=seed).x.flatten() for seed in range(1000)])
    counts = drawn.bincount(minlength=30)  # binomial with mean 200, deviation 12.6
    assert 200 - 64 < counts.min() and counts.max() < 200 + 64


def test_few_labels_of_some_classes():
    y = torch.tensor([8, 3, 8, 3, 8])
    assert data.few_labels(Split(torch.zeros(5, 1, 2, 2), y), 2).y.sort().values.tolist() == [3, 3, 8, 8]


@pytest.mark.parametrize("per_class, largest", [(0, 2), (-1, 2), (3, 2)])
def test_few_labels_refuses_what_a_class_cannot_give(per_class, largest):
    split = Split(torch.zeros(5, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0]))
    with pytest.raises(ValueError, match=f"from 1 to {largest}.*got {per_class}.*fewer"):
        data.few_labels(split, per_class)


def test_few_labels_of_nothing():
    with pytest.raises(ValueError, match="from 1 to 0"):
        data.few_labels(Split(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64)), 1)


# ---------------------------------------------------------------- the rest


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_results_stay_on_the_device_of_the_images():
    here = data.digits()
    there = ImageData(*(part and Split(part.x.cuda(), part.y.cuda()) for part in here))
    sizes = {"train": 500, "validation": 300, "test": 900}
    pairs = [*zip(data.rotated(here, **sizes), data.rotated(there, **sizes), strict=True)]
    pairs.append((data.few_labels(here.train, 9), data.few_labels(there.train, 9)))
    for cpu, gpu in pairs:
        assert gpu.x.is_cuda and gpu.y.is_cuda and torch.equal(cpu.y, gpu.y.cpu())
        torch.testing.assert_close(cpu.x, gpu.x.cpu(), atol=1e-5, rtol=0)


def test_mirrors_are_https_and_several():
    assert data.MIRRORS.keys() == data.SHA256.keys()
    for mirrors in data.MIRRORS.values():
        assert len(mirrors) >= 2
        assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in mirrors)
    digests = list(itertools.chain(*(hashes.values() for hashes in data.SHA256.values())))
    assert len(set(digests)) == 10 and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)
