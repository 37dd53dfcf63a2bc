"""The examples that download: on small local files of the same format, by the same ways."""

import csv
import gzip
import json
import pickle
import struct
import tarfile
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from fallline.compare.records import Arm, Spec
from fallline.compare.trials.trial import run_trial
from fallline.tasks import TaskError, load

EXAMPLES = Path(__file__).parents[1] / "examples"
VISION = EXAMPLES / "torchvision_mnist.py"
NOT_INSTALLED = "the extra `examples` is not installed"


def images(count, side, colours):
    """Return images whose class can be read off: each has its row white, and noise; and the classes."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % 10
    pixels = rng.integers(0, 64, (count, colours, side, side), dtype=np.uint8)
    pixels[np.arange(count), :, 2 * labels] = 255
    return pixels, labels


def idx(array):
    """Return an array of bytes in MNIST's format, IDX: the kind 8, the dimensions, and each size first."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder, and the address on this machine from which its files can be downloaded."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def mnist(served, tmp_path, monkeypatch):
    """A mirror of MNIST with 240 and 60 images, for torchvision to download from."""
    dataset = pytest.importorskip("torchvision.datasets", reason=NOT_INSTALLED).MNIST
    mirror, address = served
    resources = []
    for part, count in (("train", 240), ("t10k", 60)):
        pixels, labels = images(count, side=28, colours=1)
        for name, array in (("images-idx3", pixels[:, 0]), ("labels-idx1", labels.astype(np.uint8))):
            file = mirror / f"{part}-{name}-ubyte.gz"
            file.write_bytes(gzip.compress(idx(array)))
            resources.append((file.name, md5(file.read_bytes()).hexdigest()))
    monkeypatch.setattr(dataset, "mirrors", [address])
    monkeypatch.setattr(dataset, "resources", resources)
    monkeypatch.setenv("FALLLINE_DATA", str(tmp_path / "data"))
    return mirror


@pytest.fixture
def cifar10(served, tmp_path, monkeypatch):
    """A server of CIFAR-10 with five batches of 48 images and one of 60."""
    dataset = pytest.importorskip("torchvision.datasets", reason=NOT_INSTALLED).CIFAR10
    pixels, labels = images(300, side=32, colours=3)
    batches = {f"data_batch_{i + 1}": slice(48 * i, 48 * (i + 1)) for i in range(5)}
    sums = {}
    archive = served[0] / "cifar-10-python.tar.gz"
    folder = tmp_path / dataset.base_folder
    folder.mkdir()
    contents = {
        name: {"data": pixels[part].reshape(-1, 3072), "labels": labels[part].tolist()}
        for name, part in {**batches, "test_batch": slice(240, 300)}.items()
    }
    contents["batches.meta"] = {"label_names": [f"row {2 * i}" for i in range(10)]}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        sums[name] = md5((folder / name).read_bytes()).hexdigest()
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, folder.name)
    monkeypatch.setattr(dataset, "url", served[1] + archive.name)
    monkeypatch.setattr(dataset, "tgz_md5", md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(dataset, "train_list", [[name, sums[name]] for name in batches])
    monkeypatch.setattr(dataset, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": sums["batches.meta"]})
    monkeypatch.setenv("FALLLINE_DATA", str(tmp_path / "data"))
    return pixels


def test_mnist_is_downloaded_and_divided(mnist):
    task = load(str(VISION))
    pixels, labels = images(60, side=28, colours=1)
    assert task.name == "MNIST"
    assert [len(getattr(task, part)[1]) for part in task.parts] == [200, 40, 60]
    assert np.array_equal(task.test[0], pixels)
    assert np.array_equal(task.test[1], labels)
    together = np.concatenate([task.train[0], task.valid[0]])
    assert sorted(map(bytes, together)) == sorted(map(bytes, images(240, side=28, colours=1)[0]))


def test_mnist_is_read_from_the_folder_when_there_is_no_network(mnist, monkeypatch):
    before = load(str(VISION))
    for file in mnist.iterdir():
        file.unlink()
    after = load(str(VISION))
    assert np.array_equal(before.valid[0], after.valid[0]), "and is divided the same way"


def test_a_file_that_is_not_the_one_expected_is_refused(mnist):
    damaged = mnist / "train-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\1")
    with pytest.raises(TaskError, match=r"not found or corrupted|Error downloading"):
        load(str(VISION))


def test_cifar10_is_downloaded_and_divided(cifar10):
    task = load(f"{VISION}:make_cifar10")
    assert task.name == "CIFAR-10"
    assert [len(getattr(task, part)[1]) for part in task.parts] == [200, 40, 60]
    assert np.array_equal(task.test[0], cifar10[240:])


@pytest.mark.parametrize("function", ["make_task", "make_cifar10"])
def test_their_network_learns_classes_that_can_be_read_off(function, mnist, cifar10):
    trial = run_trial(
        load(f"{VISION}:{function}"),
        Arm("adamw"),
        Spec("", "tune", 0, 0, {"lr": 0.003, "epochs": 8, "batch_size": 20}),
    )
    assert trial.test_metrics["accuracy"] == 1


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """200 texts whose class is said by one word among twenty others."""
    datasets = pytest.importorskip("datasets", reason=NOT_INSTALLED)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    said = {"ham": ["fine", "good"], "spam": ["buy", "now"]}
    labels = [("ham", "spam")[i % 2] for i in range(200)]
    words = [[f"word{j}" for j in rng.integers(0, 50, 20)] + [rng.choice(said[label])] for label in labels]
    return [
        {"text": " ".join(rng.permutation(each)), "label": label}
        for each, label in zip(words, labels, strict=True)
    ]


def write_csv(rows, file):
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)


def write_json(rows, file):
    file.write_text("\n".join(map(json.dumps, rows)))


def write_parquet(rows, file):
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(rows), file)


@pytest.mark.parametrize("write", [write_csv, write_json, write_parquet])
def test_a_file_of_texts_is_divided_and_learned(rows, tmp_path, monkeypatch, write):
    file = tmp_path / f"mails.{write.__name__.removeprefix('write_')}"
    write(rows, file)
    monkeypatch.setenv("FALLLINE_TEXT", str(file))
    task = load(str(EXAMPLES / "hugging_face.py"))
    assert [len(getattr(task, part)[1]) for part in task.parts] == [160, 40]
    spec = Spec("", "tune", 0, 0, {"lr": 0.01, "epochs": 30})
    assert run_trial(task, Arm("adam"), spec).metrics["accuracy"] == 1


def test_a_data_set_with_test_texts_is_judged_by_them(rows, tmp_path, monkeypatch):
    """A folder of files named by part is what the hub holds; labels are numbers there."""
    folder = tmp_path / "mails"
    folder.mkdir()
    numbered = [{**row, "label": int(row["label"] == "spam")} for row in rows]
    write_parquet(numbered[:150], folder / "train.parquet")
    write_parquet(numbered[150:], folder / "test.parquet")
    monkeypatch.setenv("FALLLINE_TEXT", str(folder))
    task = load(str(EXAMPLES / "hugging_face.py"))
    assert [len(getattr(task, part)[1]) for part in task.parts] == [120, 30, 50]
    assert task.test[1].tolist() == [row["label"] for row in numbered[150:]]


def test_words_have_the_same_numbers_in_every_process():
    pytest.importorskip("datasets", reason=NOT_INSTALLED)
    from fallline.core.python_file import run

    words_of = run(EXAMPLES / "hugging_face.py").words_of
    assert words_of("To be, or not to be")[:7] == [*words_of("to BE or not")[:4], *words_of("to be")[:3]]
    assert words_of("a")[0] == 1 + 0xE8B7BE43 % 20_000, "CRC-32 of the letter a, from its published table"
