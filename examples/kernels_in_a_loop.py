"""The ops in a plain PyTorch loop, without the trainer: two students, two teachers, labelled and unlabelled clips.

    python examples/kernels_in_a_loop.py [STEPS]

Needs torch and fastdmt_kernels alone (`pip install ./kernels`). CUDA tensors run the Triton kernels, others plain
PyTorch.
"""

import copy
import sys

import torch
from torch import nn

from fastdmt_kernels import boxes_to_mask, consensus, ema_update, localization_loss, similarity_map

SIZE = (64, 64)


class Student(nn.Module):
    """A map of cosines between a grid of features and a sound."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.ReLU(), nn.Conv2d(32, 16, 2, 2))
        self.audio = nn.Linear(8, 16)
        self.affine = nn.Parameter(torch.tensor([10.0, -5.0]))

    def forward(self, frames, sounds):
        return similarity_map(self.visual(frames), self.audio(sounds))


def clips(n, device):
    """Frames with a bright square whose colour the sound names, and its box."""
    frames, sounds = 0.1 * torch.randn(n, 3, *SIZE, device=device), torch.zeros(n, 8, device=device)
    corner = torch.randint(0, 40, (n, 2), device=device)
    for i, (x, y) in enumerate(corner.tolist()):
        frames[i, i % 3, y : y + 24, x : x + 24] += 2
        sounds[i, i % 3] = 1
    return frames, sounds, torch.cat([corner, corner + 24], 1)[:, None].float()


def main(steps: str = "200") -> float:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    students = [Student().to(device) for _ in range(2)]
    teachers = [copy.deepcopy(s).requires_grad_(False) for s in students]
    optimizer = torch.optim.AdamW([p for s in students for p in s.parameters()], lr=3e-3)
    for step in range(int(steps)):
        frames, sounds, boxes = clips(16, device)
        unlabelled, their_sounds, _ = clips(16, device)
        with torch.no_grad():
            maps = [t(unlabelled, their_sounds) for t in teachers]
            agreed = consensus(*maps, teachers[0].affine, teachers[1].affine, delta=0.6, tau=0.5, size=SIZE)
        target = torch.cat([boxes_to_mask(boxes, SIZE, 1), agreed.mask])
        weight = torch.cat([torch.ones(16, device=device), agreed.keep.float()])
        seen, heard = torch.cat([frames, unlabelled]), torch.cat([sounds, their_sounds])
        loss = sum(localization_loss(s(seen, heard), s.affine, target, weight, size=SIZE) for s in students)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for teacher, student in zip(teachers, students, strict=True):
            ema_update(list(teacher.parameters()), list(student.parameters()), 0.95)
        if step % 20 == 0 or step == int(steps) - 1:
            print(f"step {step}: loss {loss.item():.3f}, kept {agreed.keep.float().mean().item():.2f}")
    return loss.item()


if __name__ == "__main__":
    main(*sys.argv[1:])
