"""Dual Mean-Teacher for audio-visual source localization."""
