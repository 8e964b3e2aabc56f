from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.pictures import embed_pictures, features, read_pictures


def _stripes(upright: bool, colour: tuple[int, int, int]) -> Image.Image:
    pixels = np.full((80, 60, 3), 255, dtype=np.uint8)
    if upright:
        pixels[:, ::6] = pixels[:, 1::6] = pixels[:, 2::6] = colour
    else:
        pixels[::6] = pixels[1::6] = pixels[2::6] = colour
    return Image.fromarray(pixels)


def test_features_see_colours_and_directions() -> None:
    """Colours are area means in 0..1; stripes upright and lying put their edges in different directions."""
    colours, upright = features(_stripes(True, (255, 0, 0)))
    assert colours.shape == (144,)
    np.testing.assert_allclose(colours.reshape(-1, 3).mean(0), [1, 0.5, 0.5], atol=0.02)
    _, lying = features(_stripes(False, (255, 0, 0)))
    assert upright @ lying < 0.3 < 0.9 < upright @ upright
    np.testing.assert_allclose([upright @ upright, lying @ lying], 1, rtol=1e-5)


def test_like_pictures_lie_near(tmp_path: Path) -> None:
    """Vectors of length 1: a picture is nearest to one that differs little, and files are found by their names."""
    shades = [(250, 0, 0), (240, 10, 0), (0, 0, 250), (0, 10, 240)]
    path = tmp_path / "pictures.tar.xz"
    with tarfile.open(path, "w:xz") as files:
        for number, colour in enumerate(shades):
            file = io.BytesIO()
            _stripes(number == 0, colour).save(file, "PNG")
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size = file.tell()
            file.seek(0)
            files.addfile(entry, file)
    heard: list[int] = []
    found = read_pictures(path, {"1.png", "2.png", "3.png"}, heard.append)
    assert (sorted(found), heard) == (["1.png", "2.png", "3.png"], [1, 2, 3])
    vectors = embed_pictures(found.values(), 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[1] @ vectors[2] > vectors[0] @ vectors[1]
