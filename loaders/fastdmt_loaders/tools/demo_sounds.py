"""Sounds of the demo data: ten families of timbre.

What a sound IS, its class, shows in its timbre alone. Pitch, tempo, loudness, tilt of the spectrum and background noise
are drawn at random for every clip, over ranges that all families share.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

TWO_PI = 2 * np.pi


def _pitch(rng: np.random.Generator) -> float:
    """Fundamental in Hz, log-uniform over two and a half octaves."""
    return float(130 * 2 ** rng.uniform(0, 2.5))


def _onsets(rng: np.random.Generator, seconds: float, per_second: float) -> np.ndarray:
    """Start times of repeated events: an even beat, each hit a little early or late."""
    count = max(1, int(seconds * per_second))
    beat = np.arange(count) / per_second + rng.uniform(0, 0.5 / per_second)
    return (beat + rng.uniform(-0.15, 0.15, count) / per_second).clip(0, seconds * 0.98)


def _place(length: int, rate: int, onsets: np.ndarray, event: Callable[[int], np.ndarray]) -> np.ndarray:
    """The sum of events, event(i) starting at onsets[i] seconds."""
    out = np.zeros(length)
    for i, onset in enumerate(onsets):
        first = int(onset * rate)
        piece = event(i)[: length - first]
        out[first : first + len(piece)] += piece
    return out


def _harmonics(times, pitch, rate, weights, phase=0.0):
    """Sum of weights[k] * sin((k+1) * ...) below Nyquist; `pitch` Hz, or the phase in cycles when an array."""
    cycles = pitch * times if np.isscalar(pitch) else pitch
    top = pitch if np.isscalar(pitch) else float(np.max(np.diff(pitch))) * rate
    return sum(
        w * np.sin(TWO_PI * k * cycles + phase * k) for k, w in enumerate(weights, 1) if w and k * top < 0.47 * rate
    )


def organ(rng, times, rate):
    """Steady pipes: octaves and fifths, slow tremolo."""
    pitch = _pitch(rng)
    weights = np.array([1, 0.8, 0.5, 0.7, 0, 0.35, 0, 0.5]) * rng.uniform(0.6, 1.4, 8)
    tremolo = 1 + 0.25 * np.sin(TWO_PI * rng.uniform(3, 7) * times)
    return tremolo * _harmonics(times, pitch, rate, weights)


def reed(rng, times, rate):
    """Odd harmonics only, in separate notes that swell."""
    speed = rng.uniform(1.2, 2.5)
    weights = [1, 0, 0.75, 0, 0.5, 0, 0.3, 0, 0.2]
    base = _pitch(rng)

    def note(i):
        t = np.arange(int(rate * 0.8 / speed)) / rate
        swell = np.sin(np.pi * t * speed / 0.8) ** 2
        return swell * _harmonics(t, base * 2 ** (rng.integers(-3, 4) / 12), rate, weights)

    return _place(len(times), rate, _onsets(rng, times[-1], speed), note)


def bell(rng, times, rate):
    """FM with an inharmonic modulator, struck and dying away."""
    base, ratio = 2 * _pitch(rng), rng.choice([1.41, 2.76, 3.51])
    decay = rng.uniform(0.25, 0.6)

    def strike(i):
        t = np.arange(int(rate * 4 * decay)) / rate
        pitch = min(base * 2 ** (rng.integers(-4, 5) / 12), 0.2 * rate)
        return np.exp(-t / decay) * np.sin(
            TWO_PI * pitch * t + 3 * np.exp(-2 * t / decay) * np.sin(TWO_PI * ratio * pitch * t)
        )

    return _place(len(times), rate, _onsets(rng, times[-1], rng.uniform(1.0, 2.5)), strike)


def shaker(rng, times, rate):
    """Bursts of bright noise."""
    speed, decay = rng.uniform(3.5, 8), rng.uniform(0.02, 0.05)

    def burst(i):
        t = np.arange(int(rate * 5 * decay)) / rate
        noise = np.diff(rng.standard_normal(len(t) + 1))
        return noise * (t / decay) * np.exp(1 - t / decay) * rng.uniform(0.5, 1)

    return _place(len(times), rate, _onsets(rng, times[-1], speed), burst)


def bird(rng, times, rate):
    """Chirps: short fast sweeps, several a second."""
    low = min(rng.uniform(900, 2200), 0.16 * rate)
    span, up = rng.uniform(0.5, 1.2), rng.random() < 0.5
    size = rng.uniform(0.06, 0.14)

    def chirp(i):
        t = np.arange(int(rate * size)) / rate
        x = t / size if up else 1 - t / size
        cycles = np.cumsum(low * 2 ** (span * x)) / rate
        return np.sin(np.pi * t / size) * np.sin(TWO_PI * cycles)

    return _place(len(times), rate, _onsets(rng, times[-1], rng.uniform(3, 7)), chirp)


def guitar(rng, times, rate):
    """Plucked strings: Karplus and Strong's recursion, one period at a time."""
    base = _pitch(rng)

    def pluck(i):
        period = max(4, int(rate / (base * 2 ** (rng.integers(0, 3) * 4 / 12))))
        rows = np.empty((max(2, int(1.2 * rate / period)), period))
        rows[0] = rng.uniform(-1, 1, period)
        for r in range(1, len(rows)):
            before, after = rows[r - 1], rows[r]
            after[1:] = before[1:] + before[:-1]
            after[0] = before[0] + before[-1]
            after *= 0.4985
        return rows.ravel()

    return _place(len(times), rate, _onsets(rng, times[-1], rng.uniform(1.5, 3.5)), pluck)


def engine(rng, times, rate):
    """A low saw-tooth whose strokes are rough: amplitude modulation of 15 to 35 Hz."""
    pitch = 0.5 * _pitch(rng)
    wander = times + 0.02 * np.sin(TWO_PI * rng.uniform(0.3, 1) * times)
    strokes = (0.5 + 0.5 * np.sin(TWO_PI * rng.uniform(15, 35) * times)) ** 2
    return strokes * _harmonics(times, pitch * wander, rate, [1 / k for k in range(1, 16)], phase=0.7)


def wood(rng, times, rate):
    """Knocks: a few resonances that die within hundredths of a second."""
    modes = _pitch(rng) * 2 * np.array([1, 1.71, 2.9]) * rng.uniform(0.95, 1.05, 3)

    def knock(i):
        t = np.arange(int(rate * 0.12)) / rate
        return sum(np.exp(-t / 0.02) * np.sin(TWO_PI * m * t) for m in modes if m < 0.45 * rate) * rng.uniform(0.5, 1)

    return _place(len(times), rate, _onsets(rng, times[-1], rng.uniform(2.5, 7)), knock)


def wind(rng, times, rate):
    """Noise through one slow moving resonance."""
    n = len(times)
    bands = np.array([350, 700, 1300, 2400]) * rng.uniform(0.8, 1.25)
    where = 1.5 + 1.5 * np.sin(TWO_PI * rng.uniform(0.15, 0.6) * times + rng.uniform(0, TWO_PI))
    noise = rng.standard_normal(n, dtype=np.float32)
    return sum(
        np.exp(-((where - i) ** 2)) * _filter(noise, rate, lambda f, b=b: np.exp(-20 * np.log((f + 1) / b) ** 2))
        for i, b in enumerate(bands)
        if b < 0.45 * rate
    )


def siren(rng, times, rate):
    """A tone of few harmonics that rises and falls."""
    pitch, swing, speed = 2 * _pitch(rng), rng.uniform(0.25, 0.5), rng.uniform(0.5, 2.2)
    cycles = np.cumsum(pitch * 2 ** (swing * np.sin(TWO_PI * speed * times + rng.uniform(0, TWO_PI)))) / rate
    return _harmonics(times, cycles, rate, [1, 0.4, 0.25])


TIMBRES: tuple[Callable, ...] = (organ, reed, bell, shaker, bird, guitar, engine, wood, wind, siren)


def synthesize(
    rng: np.random.Generator, label: int, rate: int, seconds: float, channels: int, snr_db: float
) -> np.ndarray:
    """A clip of class `label` with background noise `snr_db` below it.

    Returns:
        float32 [round(rate * seconds), channels] within +-1.
    """
    length = round(rate * seconds)
    sound = TIMBRES[label](rng, np.arange(length) / rate, rate)
    sound[: int(rng.uniform(0, 0.12) * length)] *= 0.02  # the sound may come in late
    # Tilted spectra, as of rooms and microphones; the noise is drawn as a spectrum and added there.
    size = _fft_size(length)
    freqs = np.fft.rfftfreq(size, 1 / rate)
    octaves = np.log2(freqs.clip(60) / 1000).astype(np.float32)
    spectrum = np.fft.rfft(sound.astype(np.float32), size) * 2 ** (octaves * np.float32(rng.uniform(-1, 1)))
    noise = rng.standard_normal((len(freqs), 2), dtype=np.float32).view(np.complex64)[:, 0]
    noise *= 2 ** (octaves * np.float32(rng.uniform(-1, 0)))
    gain = 10 ** (-snr_db / 20) * np.linalg.norm(spectrum) * np.sqrt(size / length) / np.linalg.norm(noise)
    sound = np.fft.irfft(spectrum + np.float32(gain) * noise, size)[:length]
    sound *= 10 ** rng.uniform(-0.9, -0.05) / (np.abs(sound).max() + 1e-9)
    gains = np.ones(1) if channels == 1 else rng.uniform(0.5, 1.0, channels)
    return (sound[:, None] * gains).astype(np.float32)


def _filter(sound: np.ndarray, rate: int, response: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Scale each frequency by response(Hz)."""
    n = len(sound)
    size = _fft_size(n)
    spectrum = np.fft.rfft(sound.astype(np.float32), size)
    return np.fft.irfft(spectrum * response(np.fft.rfftfreq(size, 1 / rate)).astype(np.float32), size)[:n]


def _fft_size(n: int) -> int:
    """A length from n up that the FFT likes: up to ten times faster than one with a large prime factor."""
    return min(odd << max(0, ((n - 1) // odd).bit_length()) for odd in (1, 3, 5, 9, 15))
