"""Where in a photograph is the source of a recording?

    python examples/localize_a_recording.py RUN PHOTO RECORDING PICTURE

Record with any program (`arecord -d 3 -f cd sound.wav`). Prints the most likely place, and writes the photograph with
its map.
"""

import sys

import numpy as np
import soundfile
from PIL import Image

import fastdmt
from fastdmt.drawing import draw


def main(run: str, photo: str, recording: str, picture: str) -> None:
    frame = np.asarray(Image.open(photo).convert("RGB"))
    waveform, rate = soundfile.read(recording, dtype="float32")
    heat = fastdmt.load(run).localize(frame, waveform, rate=rate)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    print(f"most likely at x {x}, y {y} (P {heat.max():.2f}); {100 * (heat >= 0.5).mean():.1f}% of the frame sounds")
    Image.fromarray(draw.overlay(frame, heat)).save(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
