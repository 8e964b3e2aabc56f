"""A picture as a vector without a model: where which colours are, and which way edges run, as a frozen projection.

A deliberately simple stand-in for a multi-modal encoder, made of what one can say in a sentence: the picture on
white, shrunk by area averages to 6 x 8 RGB pixels (144 numbers), beside histograms of gradient directions of its grey
48 x 64 form in 3 x 4 cells and 8 directions without sign, weighted by length (96 numbers, square roots of shares).
Either half is centred on the catalogue and scaled to the same mean length; the frozen Gaussian projection to `dim`
numbers keeps angles (Johnson and Lindenstrauss). The same files give the same vectors on one machine.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from domain.lsh import hyperplanes

__all__ = ["embed_pictures", "features", "read_pictures"]

_Float = npt.NDArray[np.float32]
_COLOUR_SIZE: Final = (6, 8)  # width, height
_GREY_SIZE: Final = (48, 64)
_CELLS: Final = (3, 4)
_DIRECTIONS: Final = 8
#: Of the frozen projection.
_SEED: Final = 20251112


def features(picture: Image.Image) -> tuple[_Float, _Float]:
    """Colours [144] in 0..1 and gradient directions [96] of a picture of any size."""
    rgb = picture.convert("RGB")
    colours = np.asarray(rgb.resize(_COLOUR_SIZE, Image.Resampling.BOX), dtype=np.float32).ravel() / np.float32(255)
    grey = np.asarray(rgb.convert("L").resize(_GREY_SIZE, Image.Resampling.BOX), dtype=np.float32)
    down, right = np.gradient(grey)
    length = np.hypot(down, right)
    direction = (np.arctan2(down, right) % np.pi / np.pi * _DIRECTIONS).astype(np.int64) % _DIRECTIONS
    rows, places = np.indices(grey.shape)
    width, height = _CELLS
    cell = (rows * height // grey.shape[0]) * width + places * width // grey.shape[1]
    counted = np.bincount((cell * _DIRECTIONS + direction).ravel(), length.ravel(), width * height * _DIRECTIONS)
    return colours, np.sqrt(counted / max(counted.sum(), 1e-9)).astype(np.float32)


def read_pictures(path: Path, wanted: set[str], report: Callable[[int], None]) -> dict[str, tuple[_Float, _Float]]:
    """Features of the members of a tar file whose name is wanted, by name; `report` hears how many were read."""
    found = {}
    with tarfile.open(path, mode="r|xz") as files:
        for member in files:
            if member.name in wanted and (file := files.extractfile(member)) is not None:
                found[member.name] = features(Image.open(io.BytesIO(file.read())))
                report(len(found))
    return found


def embed_pictures(each: Iterable[tuple[_Float, _Float]], dim: int) -> _Float:
    """Pictures' features as unit vectors ([n, dim] float32); a picture that is the catalogue's mean is zeros."""
    colours, directions = zip(*each, strict=True)
    halves = [_centred(np.stack(half)) for half in (colours, directions)]
    joined = np.concatenate(halves, axis=1)
    projected = joined @ hyperplanes(_SEED, dim, joined.shape[1]).T
    return np.asarray(projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-9), dtype=np.float32)


def _centred(half: _Float) -> _Float:
    centred = half - half.mean(axis=0)
    return np.asarray(centred / max(float(np.linalg.norm(centred, axis=1).mean()), 1e-9), dtype=np.float32)
