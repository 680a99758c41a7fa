import pytest
import torch

from kgt.ordering import bisection_order


@pytest.mark.parametrize(("nodes", "size"), [(64, 8), (61, 8), (100, 16), (7, 8), (1, 1), (9, 1)])
def test_every_node_comes_once_and_the_order_is_the_same_every_time(nodes: int, size: int) -> None:
    vectors = torch.randn(3, nodes, 5)
    order = bisection_order(vectors, size)
    assert order.dtype == torch.int16
    assert torch.equal(order.long().sort(1).values, torch.arange(nodes).expand(3, -1))
    assert torch.equal(order, bisection_order(vectors, size))


def test_clusters_become_runs() -> None:
    cluster = torch.arange(8).repeat(16)[torch.randperm(128)]
    corners = torch.tensor([[4.0 * (c >> 2), 2.0 * (c >> 1 & 1), 1.0 * (c & 1)] for c in range(8)])
    vectors = (corners[cluster] + 0.1 * torch.rand(128, 3) + 5)[None]
    runs = cluster[bisection_order(vectors, 16)[0].long()].reshape(8, 16)
    assert (runs == runs[:, :1]).all()


def test_equal_nodes_are_no_trouble() -> None:
    order = bisection_order(torch.ones(1, 20, 4), 4)
    assert torch.equal(order.long().sort(1).values[0], torch.arange(20))
