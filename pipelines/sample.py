"""The built-in photographs: real ones that ship inside installed wheels, so that everything runs without a download."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

_FOLDERS = {
    "skimage": "data",
    "sklearn": "datasets/images",
    "matplotlib": "mpl-data/sample_data",
}


@dataclass(frozen=True)
class Photograph:
    """A file of an installed package, with its licence or provenance as that package's documentation gives it."""

    package: str
    file: str
    licence: str
    split: Literal["train", "val"] = "train"

    @property
    def path(self) -> Path:
        """Where it lies. The package is found, not imported."""
        return Path(find_spec(self.package).origin).parent / _FOLDERS[self.package] / self.file


# Scenes apart: the two views of the motorcycle are on the same side. The held-out ones are in colour.
PHOTOGRAPHS = (
    Photograph("skimage", "astronaut.png", "public domain (NASA)", "val"),
    Photograph("skimage", "brick.png", "CC0 (CC0Textures)"),
    Photograph("skimage", "camera.png", "CC0 (Lav Varshney)"),
    Photograph("skimage", "chelsea.png", "CC0 (Stefan van der Walt)", "val"),
    Photograph("skimage", "coffee.png", "CC0 (Rachel Michetti)", "val"),
    Photograph("skimage", "coins.png", "no known copyright restrictions (Brooklyn Museum)"),
    Photograph("skimage", "grass.png", "CC0 (linolafett)"),
    Photograph("skimage", "gravel.png", "CC0 (CC0Textures)"),
    Photograph("skimage", "hubble_deep_field.jpg", "public domain (NASA)"),
    Photograph("skimage", "moon.png", "as distributed with scikit-image"),
    Photograph("skimage", "motorcycle_left.png", "Middlebury 2014 stereo benchmark, as distributed with scikit-image"),
    Photograph("skimage", "motorcycle_right.png", "Middlebury 2014 stereo benchmark, as distributed with scikit-image"),
    Photograph("skimage", "retina.jpg", "CC0 (Häggström 2014)"),
    Photograph("skimage", "rocket.jpg", "public domain (SpaceX)", "val"),
    Photograph("sklearn", "china.jpg", "CC BY 2.0 (danielbuechele)"),
    Photograph("sklearn", "flower.jpg", "CC BY 2.0 (vultilion)", "val"),
    Photograph("matplotlib", "grace_hopper.jpg", "public domain (US Navy)"),
)


def sample_photographs(split: Literal["train", "val"]) -> list[Path]:
    """The photographs that training sees, or those that are held out for evaluation."""
    return [photograph.path for photograph in PHOTOGRAPHS if photograph.split == split]
