"""Launch configurations by a GPU's name."""

import json

from fastdmt_kernels import tuning


def test_configurations_are_found_by_the_gpus_name(tmp_path, monkeypatch):
    for name, warps in (("default", 1), ("nvidia-h100", 2), ("nvidia-h100-pcie", 3)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"k": {"num_warps": warps}}))
    monkeypatch.setattr(tuning, "FOLDER", tmp_path)
    tuning.load.cache_clear()
    try:
        warps = {
            gpu: tuning.load(gpu)["k"]["num_warps"]
            for gpu in ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA L4")
        }
        assert list(warps.values()) == [2, 3, 1]
    finally:
        tuning.load.cache_clear()


def test_every_shipped_file_names_known_kernels():
    default = tuning.load("default")
    for file in tuning.FOLDER.glob("*.json"):
        for kernel, config in json.loads(file.read_text()).items():
            assert set(config) <= {*default[kernel], "num_stages"}, (file.name, kernel)
