"""The fused Key-Graph Constructor and the tiles of a graph, by definition. Run by `test_interpreted.py`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kgt import selection
from kgt.attention import forced, key_graph_attention
from kgt.graph import KeyGraph, key_graph
from kgt.ordering import bisection_order
from kgt.selection import _select_sorted, select_fused
from kgt.tiles import TILE, Tiles, pack_bits, tile_graph, transposed

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def unpacked(bits: Tensor) -> Tensor:
    """(W, N, 32 · words) bool."""
    return (((bits[..., None] >> torch.arange(32, device=bits.device)) & 1) != 0).flatten(2)


def same_selection(vectors: Tensor, k: int, regions: Tensor | None) -> None:
    """As a stable sort of the same similarities, which must be exact; and bits that say what the indices say."""
    windows = len(vectors)
    repeated = None if regions is None else regions[torch.arange(windows) % len(regions)]
    indices, counts = _select_sorted(vectors @ vectors.mT, k, repeated)
    bits, found, found_counts = select_fused(vectors, k, regions)
    assert torch.equal(found_counts, counts)
    assert torch.equal(found, indices)
    valid = torch.arange(indices.shape[2], device=DEVICE) < counts[..., None]
    assert torch.equal(bits, pack_bits(indices, valid))


@given(seed=st.integers(0, 10**6), nodes=st.integers(1, 40), k=st.integers(1, 50), with_regions=st.booleans())
@settings(max_examples=10)
def test_selection_is_that_of_a_stable_sort_where_most_similarities_tie(
    seed: int, nodes: int, k: int, with_regions: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-1, 2, (1, nodes, 3), generator=generator).float().to(DEVICE)
    regions = torch.randint(-1, 3, (1, nodes), generator=generator, dtype=torch.int8).to(DEVICE)
    same_selection(vectors, k, regions if with_regions else None)


@pytest.mark.parametrize("kept", [0, 4])
def test_rows_of_several_chunks_in_registers_or_not(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_CHUNK", 64)
    monkeypatch.setattr(selection, "_KEPT", kept)
    generator = torch.Generator().manual_seed(kept)
    vectors = torch.randint(-9, 10, (1, 66, 17), generator=generator).float().to(DEVICE)
    same_selection(vectors, 17, None)


def test_extreme_similarities_keep_their_order() -> None:
    vectors = torch.tensor([[[1e18], [-1e18], [1e-15], [0.0], [-0.0], [3e-16], [-1e-17], [1.0]]], device=DEVICE)
    same_selection(vectors, 3, None)
    same_selection(vectors, 6, None)


def test_the_graph_of_features_is_the_cpus_and_says_what_tiles_visit() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 66, 8, generator=generator).to(DEVICE)
    regions = torch.randint(-1, 2, (1, 66), generator=generator, dtype=torch.int8).to(DEVICE)
    for k, gathers in ((9, True), (50, False)):
        graph = key_graph(features, k, regions=regions)
        unit = features - torch.stack(
            [_region_means(x, r) for x, r in zip(features, regions.repeat(2, 1), strict=True)]
        )
        unit = torch.nn.functional.normalize(unit, dim=-1)
        indices, counts = _select_sorted(unit @ unit.mT, k, regions.repeat(2, 1))
        assert torch.equal(graph.mask(), KeyGraph(indices, counts).mask())
        assert (graph.tiled.queries.order is not None) == gathers
        assert (0 < graph.tiled.overlap() < 1) == gathers
    with torch.no_grad():
        assert key_graph(features, 9).tiled.keys is None


def _region_means(features: Tensor, regions: Tensor) -> Tensor:
    return torch.stack([features[regions == region].mean(0) for region in regions])


def tiles_visit(tiles: Tiles) -> Tensor:
    """(W, N, N) bool: what every node visits, read from gathered tiles."""
    windows, nodes, _ = tiles.bits.shape
    mask, bits = torch.zeros(windows, nodes, nodes, dtype=torch.bool), unpacked(tiles.bits).cpu()
    for w in range(windows):
        for row, node in enumerate(tiles.order[w].tolist()):
            size = tiles.sizes[w, row // TILE]
            listed = tiles.union[w, row // TILE, :size].long().cpu()
            assert torch.equal(listed, listed.unique())
            assert not bits[w, row, size:].any()
            mask[w, node, listed] = bits[w, row, :size]
    return mask


def test_tiles_visit_their_union_and_rows_their_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 70, 70, generator=generator) < 0.02
    bits = _packed(mask).to(DEVICE)
    assert torch.equal(unpacked(transposed(bits))[..., :70].cpu(), mask.mT)
    tiled = tile_graph(bits, torch.rand(2, 70, generator=generator).argsort(1).to(DEVICE, torch.int16))
    assert torch.equal(tiles_visit(tiled.queries), mask)
    assert torch.equal(tiles_visit(tiled.keys), mask.mT)
    first = tiled.queries.order[0, :TILE].long().cpu()
    assert tiled.queries.sizes[0, 0] == mask[0, first].any(0).sum()


def _packed(mask: Tensor) -> Tensor:
    nodes = mask.shape[1]
    return pack_bits(torch.arange(nodes).expand(len(mask), nodes, nodes), mask)


def test_a_graph_of_ones_own_needs_no_tiles() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 1, 70, 16, generator=generator).to(DEVICE)
    scale, bias = torch.zeros(1, device=DEVICE), torch.rand(1, 13, 19, generator=generator).to(DEVICE)
    graph = key_graph(torch.randn(2, 70, 4, generator=generator).to(DEVICE), 9)
    bare = KeyGraph(graph.indices, graph.counts)
    with forced("triton"):
        one, other = (key_graph_attention(q, k, v, g, scale, bias) for g in (graph, bare))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_operators_are_sound_for_torch() -> None:
    vectors = torch.randn(1, 8, 3, device=DEVICE)
    regions = torch.zeros(1, 8, dtype=torch.int8, device=DEVICE)
    torch.library.opcheck(select_fused, (vectors, 4, regions))
    bits, order = select_fused(vectors, 4, None)[0], bisection_order(vectors, TILE)
    torch.library.opcheck(torch.ops.kgt.transposed_bits.default, (bits,))
    torch.library.opcheck(torch.ops.kgt.unite.default, (bits, order))
    torch.library.opcheck(torch.ops.kgt.gather_bits.default, (bits, order, *torch.ops.kgt.unite(bits, order)))


def test_the_constructor_compiles_without_a_break() -> None:
    features = torch.randn(1, 66, 8, device=DEVICE)
    regions = torch.tensor([[0] * 40 + [1] * 26], device=DEVICE)
    compiled = torch.compile(lambda x: key_graph(x, 9, regions=regions), fullgraph=True, backend="aot_eager")
    found, wanted = compiled(features), key_graph(features, 9, regions=regions)
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.tiled.queries.union[..., 0], wanted.tiled.queries.union[..., 0])
