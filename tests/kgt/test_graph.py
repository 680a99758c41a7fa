from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kgt import selection
from kgt.config import RANDOM_TOPK
from kgt.graph import KeyGraph, draw_topk, key_graph
from kgt.selection import _select_chunk, _select_sorted, row_length


def neighbours_by_definition(similarity: np.ndarray, k: int, regions: np.ndarray | None) -> list[list[list[int]]]:
    """Of every row: itself, then the most similar eligible others, ties to the lower index; ascending."""
    windows, nodes = similarity.shape[:2]
    result = []
    for w in range(windows):
        rows = []
        for i in range(nodes):
            others = [
                j
                for j in range(nodes)
                if j != i and (regions is None or (regions[w, i] == regions[w, j] and regions[w, i] >= 0))
            ]
            others.sort(key=lambda j: (-similarity[w, i, j], j))
            rows.append(sorted([i, *others[: k - 1]]))
        result.append(rows)
    return result


def lists(indices: Tensor, counts: Tensor) -> list[list[list[int]]]:
    return [
        [row[:n].tolist() for row, n in zip(rows, ns, strict=True)] for rows, ns in zip(indices, counts, strict=True)
    ]


def select(similarity: Tensor, k: int, regions: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """By the CPU's kernel, from similarities as they are."""
    windows, nodes = similarity.shape[:2]
    indices = torch.zeros(windows, nodes, row_length(k, nodes), dtype=torch.int16)
    counts = torch.empty(windows, nodes, dtype=torch.int16)
    members = torch.zeros(1, nodes, dtype=torch.int8) if regions is None else regions
    _select_chunk(similarity, members, 0, 0, k, indices, counts)
    return indices, counts


@given(seed=st.integers(0, 10**6), nodes=st.integers(1, 40), k=st.integers(1, 50), with_regions=st.booleans())
@settings(max_examples=60)
def test_selection_is_the_definition_even_where_most_similarities_tie(
    seed: int, nodes: int, k: int, with_regions: bool
) -> None:
    rng = np.random.default_rng(seed)
    similarity = rng.integers(-2, 3, (2, nodes, nodes)).astype(np.float32) * rng.choice([1, -0.0, 1e-30, 1e30])
    regions = rng.integers(-1, 3, (2, nodes)).astype(np.int8) if with_regions else None
    expected = neighbours_by_definition(similarity, k, regions)
    arguments = torch.from_numpy(similarity), k, None if regions is None else torch.from_numpy(regions)
    assert lists(*select(*arguments)) == expected
    for ours, other in zip(select(*arguments), _select_sorted(*arguments), strict=True):
        assert torch.equal(ours, other)


def test_minus_zero_ties_with_zero() -> None:
    similarity = torch.tensor([[[1.0, -0.0, 0.0, -0.0]]]).expand(1, 4, 4).contiguous()
    indices, _ = select(similarity, 2)
    assert indices[0, 0, :2].tolist() == [0, 1]


@pytest.mark.parametrize("similarity", ["centred", "cosine", "dot"])
def test_neighbours_are_the_most_similar_nodes(similarity: str) -> None:
    features = torch.randn(3, 24, 5) + 1
    vectors = features - features.mean(1, keepdim=True) if similarity == "centred" else features
    if similarity != "dot":
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
    graph = key_graph(features, 7, similarity=similarity)
    expected = neighbours_by_definition((vectors @ vectors.mT).numpy(), 7, None)
    assert lists(graph.indices, graph.counts) == expected


@given(st.integers(1, 80), st.integers(0, 10**6))
@settings(max_examples=25)
def test_every_row_has_min_k_eligible_neighbours_itself_among_them(k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(4, 36, 6, generator=generator)
    regions = torch.randint(-1, 3, (2, 36), generator=generator, dtype=torch.int8)
    graph = key_graph(features, k, regions=regions)
    mask, region = graph.mask(), regions.repeat(2, 1)
    eligible = (region[:, :, None] == region[:, None, :]) & (region >= 0)[:, None, :] | torch.eye(36, dtype=torch.bool)
    assert mask.diagonal(dim1=1, dim2=2).all()
    assert not (mask & ~eligible).any()
    assert torch.equal(mask.sum(-1), eligible.sum(-1).clamp(max=k))
    assert torch.equal(mask.sum(-1), graph.counts)
    assert graph.indices.shape[2] % 8 == 0


def test_k_of_all_nodes_or_more_keeps_all_that_are_eligible() -> None:
    features, regions = torch.randn(2, 12, 3), torch.tensor([[0] * 8 + [1] * 4], dtype=torch.int8)
    assert key_graph(features, 12).mask().all()
    assert torch.equal(key_graph(features, 99, regions=regions).mask()[0], regions[0][:, None] == regions[0])


def test_the_graph_follows_a_permutation_of_the_nodes() -> None:
    features, order = torch.randn(2, 50, 8), torch.randperm(50)
    mask = key_graph(features, 9).mask()
    assert torch.equal(key_graph(features[:, order], 9).mask(), mask[:, order][:, :, order])


def test_what_is_not_eligible_has_no_influence() -> None:
    features, regions = torch.randn(1, 30, 4), torch.tensor([[0] * 20 + [-1] * 10])
    changed = features.clone()
    changed[:, 20:] = 1e6
    for similarity in ("centred", "cosine", "dot"):
        one, other = (key_graph(x, 5, similarity=similarity, regions=regions).mask() for x in (features, changed))
        assert torch.equal(one, other)


@pytest.mark.parametrize("chunk", [5 * 16**2, 3 * 16, 1])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, regions = torch.randn(12, 16, 4), torch.randint(0, 2, (4, 16))
    whole = key_graph(features, 5, regions=regions)
    monkeypatch.setattr(selection, "CHUNK", chunk)
    parts = key_graph(features, 5, regions=regions)
    assert torch.equal(whole.indices, parts.indices)
    assert torch.equal(whole.counts, parts.counts)


def test_low_precision_features_are_compared_in_float32() -> None:
    # In bfloat16 these similarities would all round to the same value, and the lower indices would win.
    features = torch.full((1, 16, 4), 1.0, dtype=torch.bfloat16)
    features[0, :, 0] = 1 + torch.arange(16) / 128
    graph = key_graph(features, 3, similarity="dot")
    assert graph.indices[0, 0, :3].tolist() == [0, 14, 15]


@pytest.mark.parametrize("regions", [None, torch.tensor([[0] * 4 + [3] * 3 + [-1] * 2])])
def test_the_constructor_compiles_without_a_break(regions: Tensor | None) -> None:
    features = torch.randn(2, 9, 3)
    compiled = torch.compile(lambda x: key_graph(x, 4, regions=regions), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(features).mask(), key_graph(features, 4, regions=regions).mask())


def test_the_graph_is_a_constant() -> None:
    graph = key_graph(torch.randn(1, 9, 3, requires_grad=True), 4)
    assert not graph.indices.requires_grad
    assert graph.indices.dtype == graph.counts.dtype == torch.int16


def test_a_graph_that_cannot_be_is_refused_by_the_name_of_its_field() -> None:
    graph = key_graph(torch.randn(2, 12, 3), 4)
    indices, counts = graph.indices, graph.counts
    too_far, negative, none, too_many = indices.clone(), indices.clone(), counts.clone(), counts.clone()
    too_far[1, 3, 2], negative[0, 0, 7], none[1, 1], too_many[0, 5] = 12, -1, 0, 9
    for wrong, reason in (
        ((too_far, counts), r"indices must lie in \[0, 11\], not reach from 0 to 12"),
        ((negative, counts), "indices must lie"),
        ((indices, none), r"counts must lie in \[1, 8\]"),
        ((indices, too_many), "counts must lie"),
        ((indices.int(), counts), "indices must be int16"),
        ((indices, counts[:1]), "counts must be"),
        ((indices[0], counts), "indices must be int16 of 3 axes"),
        ((indices[..., :0], counts), "indices must have room"),
        ((indices[..., [0, 0, 1, 2, 3, 4, 5, 6]], counts), "indices must not name a neighbour twice"),
    ):
        with pytest.raises(ValueError, match=f"^{reason}"):
            KeyGraph(*wrong)


def test_what_no_graph_can_be_made_of_is_refused_by_name() -> None:
    features, regions = torch.randn(4, 12, 3), torch.zeros(2, 12, dtype=torch.int8)
    for change, reason in (
        ({"features": features[0]}, r"features must be floats \(windows, nodes, channels\)"),
        ({"k": 0}, "k must be at least 1"),
        ({"similarity": "centered"}, "similarity must be one of centred, cosine, dot, not 'centered'"),
        ({"regions": regions[:, :9]}, r"regions must be \(P, 12\) where P divides 4, not \(2, 9\)"),
        ({"regions": torch.zeros(3, 12, dtype=torch.int8)}, r"regions must be \(P, 12\)"),
        ({"regions": regions.int() + 300}, r"regions must lie in \[-1, 3\]"),
    ):
        arguments = {"features": features, "k": 4, "regions": regions} | change
        with pytest.raises(ValueError, match=f"^{reason}"):
            key_graph(arguments.pop("features"), arguments.pop("k"), **arguments)


def test_drawn_topk_is_a_function_of_seed_and_step_with_the_papers_support() -> None:
    drawn = [draw_topk(0, step) for step in range(3000)]
    assert drawn == [draw_topk(0, step) for step in range(3000)]
    assert drawn != [draw_topk(1, step) for step in range(3000)]
    assert set(drawn) == set(RANDOM_TOPK)
    assert all(abs(n - 500) < 100 for n in Counter(drawn).values())
    assert {draw_topk(0, step, (*RANDOM_TOPK, 1024)) for step in range(100)} == {*RANDOM_TOPK, 1024}


def test_the_draw_never_changes_between_versions() -> None:
    # A run that resumes under a later version must draw as it would have.
    assert [draw_topk(7, step) for step in range(8)] == [192, 512, 512, 384, 256, 256, 192, 512]
