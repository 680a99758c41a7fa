"""Fixtures of the pipelines' tests: stores of both kinds, a folder of photographs."""

from pathlib import Path

import pytest
from PIL import Image

from pipelines.sample import sample_photographs
from pipelines.storage import Store, open_store


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "file":
        return open_store(f"file://{tmp_path}/a store")
    return open_store(f"s3://{request.getfixturevalue('s3_bucket')}/shards")


@pytest.fixture
def file_store(tmp_path: Path) -> Store:
    """An empty folder as a store."""
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a space in its name and six small photographs, one of them gray and one in a folder of its own."""
    folder = tmp_path / "my photos"
    (folder / "more").mkdir(parents=True)
    for number, path in enumerate(sample_photographs("train")[:6]):
        with Image.open(path) as image:
            place = folder / "more" if number == 5 else folder
            image.crop((40, 40, 136, 120 + number)).save(place / f"photo {number}.png")
    return folder
