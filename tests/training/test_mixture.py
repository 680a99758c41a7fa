"""Which datasets a run mixes, as the command line has them."""

from hypothesis import given
from hypothesis import strategies as st

from training.mixture import Source, listed, sources_of, written

texts = st.lists(st.text(max_size=8).filter(lambda text: not text.startswith("[")), min_size=1, max_size=4)


@given(texts)
def test_what_is_written_down_is_read_again(values: list[str]) -> None:
    assert listed(written(values), "store") == values


def test_one_dataset_is_written_as_it_stands() -> None:
    assert written(["file:///my photographs, all=1"]) == "file:///my photographs, all=1"
    assert sources_of("file:///a, b", "", ()) == (Source("file:///a, b", "", 1),)


def test_several_are_read_alike_unless_they_weigh() -> None:
    assert sources_of("[file:///a,s3://b/c]", "", ()) == (Source("file:///a", "", 1), Source("s3://b/c", "", 1))
    assert sources_of("['file:///a,b', s3://b]", "[v000002, '']", (3, 1)) == (
        Source("file:///a,b", "v000002", 3),
        Source("s3://b", "", 1),
    )


def test_one_store_may_hold_them_all() -> None:
    versions = [source.version for source in sources_of("file:///a", "[v000001,v000002]", ())]
    assert versions == ["v000001", "v000002"]
    assert {source.store for source in sources_of("file:///a", "[v000001,v000002]", ())} == {"file:///a"}
