"""Run as a program: torchaudio's answers for test_against_torchaudio.py, written to the npz file named first.

Its compiled extension is replaced by nothing, because a CPU build of torch has none that fits; the functions asked here
are plain Python.
"""

import sys
import types

import numpy as np
import torch


def without_extension() -> None:
    stub = types.ModuleType("torchaudio._extension")
    stub.fail_if_no_align = lambda function=None, *args, **kwargs: function
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
    sys.modules["torchaudio._extension"] = stub


def main(questions: str, answers: str) -> None:
    try:
        import torchaudio  # a build that fits this torch
    except Exception:
        for name in [name for name in sys.modules if name.startswith("torchaudio")]:
            del sys.modules[name]
        without_extension()
        import torchaudio
    import torchaudio.compliance.kaldi
    from torchaudio.functional import resample
    from torchaudio.transforms import Spectrogram

    asked = np.load(questions)
    bands, _ = torchaudio.compliance.kaldi.get_mel_banks(64, 512, 16000.0, 125.0, 7500.0, 100.0, -500.0, 1.0)
    pcm = torch.from_numpy(asked["pcm"])
    # Its window of 400 stands in the middle of 512 samples: 56 zeros before the first bring both to one place.
    padded = torch.nn.functional.pad(pcm, (56, 512))
    magnitude = Spectrogram(n_fft=512, win_length=400, hop_length=160, power=1.0, center=False)(padded)
    frames = magnitude[:, :256, : 96 * (pcm.shape[1] // 15360)].transpose(1, 2)
    logmel = torch.log(frames @ bands.T + 0.01)
    found = {"bands": bands.T, "logmel": logmel}
    for name in asked.files:
        if name.startswith("resample"):
            _, old, new = name.split("_")
            # A filter as long and as steep as it takes for its own error to be small beside the bound.
            found[name] = resample(
                torch.from_numpy(asked[name]), int(old), int(new), lowpass_filter_width=64, rolloff=0.95
            )
    np.savez(answers, **{name: value.numpy() for name, value in found.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
