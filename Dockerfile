# FastDMT for machines with NVIDIA GPUs. The wheel of torch brings CUDA; the host brings the driver and its container toolkit.
#
#   docker build -t fastdmt .
#   docker run --gpus all --shm-size 8g -v "$PWD/data:/data" -v "$PWD/runs:/runs" fastdmt train --data /data --run /runs/mine
#
# Not built by the tests of this project; they check its words against pyproject.toml.
FROM python:3.12-slim

# Triton compiles the launcher of each kernel with the machine's C compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

# `video`: DALI decodes clips on the GPU (NVDEC).
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,video PYTHONUNBUFFERED=1

WORKDIR /opt/fastdmt
COPY . .
# dali13 in place of dali where the wheel of torch is of CUDA 13.
ARG EXTRAS=dali,fast,hub,shards
RUN pip install --no-cache-dir ".[$EXTRAS]" --constraint constraints.txt

RUN useradd --create-home user
USER user
WORKDIR /home/user
ENTRYPOINT ["fastdmt"]
CMD ["--help"]
