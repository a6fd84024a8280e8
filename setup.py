"""Packaging of FastDMT: three import packages from three folders of the top level."""

from pathlib import Path

from setuptools import setup

# Three trees, each below a folder of the top level.
TREES = {
    "fastdmt": "fastdmt",
    "fastdmt_kernels": "kernels/fastdmt_kernels",
    "fastdmt_loaders": "loaders/fastdmt_loaders",
}
PACKAGES = {
    ".".join((name, *init.parent.relative_to(folder).parts)): str(init.parent)
    for name, folder in TREES.items()
    for init in sorted(Path(folder).rglob("__init__.py"))
}

DALI = "nvidia-dali-cuda120>=2.4; sys_platform == 'linux' and platform_machine == 'x86_64'"
# DALI's cuda120 wheel loads these two at import and does not require them itself.
DALI_LIBS = [
    "nvidia-cufft-cu12; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "nvidia-npp-cu12; sys_platform == 'linux' and platform_machine == 'x86_64'",
]

setup(
    name="fastdmt",
    version="0.1.0",
    description="Dual Mean-Teacher for audio-visual source localization, as a high-throughput trainer",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={"fastdmt_kernels": ["tuned/*.json"], "fastdmt.reports": ["templates/*"]},
    install_requires=[
        "torch>=2.11",
        "numpy",
        "safetensors",
        "av>=17",
        "soundfile",
        "pillow",
        "tyro",
        "rich",
        "tensorboard",
    ],
    extras_require={
        "dali": [DALI, *DALI_LIBS],
        "dali13": ["nvidia-dali-cuda130>=2.4", "nvidia-npp"],
        "gpu": ["torchaudio"],
        "shards": ["webdataset"],
        "test": [
            "pytest",
            "pytest-benchmark",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "scipy",
            "matplotlib",
            "webdataset",
            "triton==3.7.1; sys_platform == 'linux'",
            DALI,
            *DALI_LIBS,
        ],
    },
    entry_points={"console_scripts": ["fastdmt = fastdmt.cli.main:main"]},
)
