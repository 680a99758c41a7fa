"""Every kernel, as the model launches it, becomes sound machine code for sm_80 and sm_90; no GPU needed."""

import platform
from collections.abc import Callable

import pytest
import torch

from kgt import graph as graph_module
from kgt import kernels
from kgt.attention import forced, key_graph_attention
from kgt.graph import KeyGraph, key_graph

pytest.importorskip("triton", reason="triton is not installed")
if platform.machine() != "x86_64":
    pytest.skip("the GPU's disassembler comes for x86-64", allow_module_level=True)

from kgt.kernels import attention, bias, selection, tiles
from tests.kgt.kernels.offline import Recorder, compile_launch

LAUNCHED = {
    attention: ("inverse_norms", "forward", "query_gradients", "key_gradients"),
    bias: ("bias_gradient",),
    selection: ("select",),
    tiles: ("transpose", "list_neighbours", "unite", "gather_bits"),
}
ATTENTION = {*LAUNCHED[attention], *LAUNCHED[bias]}
WITH_PRODUCTS = ATTENTION - {"inverse_norms"} | {"select"}
SIDE = 32


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorder]:
    """By name; while this fixture lives, the CPU counts as a device that launches kernels."""
    monkeypatch.setattr(kernels, "_INSTALLED", True)
    monkeypatch.setattr(kernels, "_INTERPRETED", True)
    monkeypatch.setattr(graph_module, "_check_range", lambda *_: None)  # nothing is computed
    found = {}
    for module, names in LAUNCHED.items():
        for name in names:
            found[name] = Recorder(getattr(module, name))
            monkeypatch.setattr(module, name, found[name])
    return found


def launch_attention(graph: KeyGraph, d: int, dtype: torch.dtype) -> None:
    """Forward and backward of six heads of a packed projection, as `kgt.layers.Attention` makes them."""
    windows, nodes = graph.counts.shape
    packed = torch.zeros(windows, nodes, 3, 6, d, dtype=dtype, requires_grad=True)
    q, k, v = (x.transpose(1, 2) for x in packed.unbind(2))
    bias = torch.zeros(6, 2 * SIDE - 1, 2 * SIDE - 1, requires_grad=True)
    with forced("triton"):
        key_graph_attention(q, k, v, graph, torch.zeros(6, requires_grad=True), bias).sum().backward()


def check(
    recorders: dict[str, Recorder],
    capability: int,
    title: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """Compile all launches, print what they take, and hold that against what a kernel may."""
    monkeypatch.undo()
    lines, faults = [f"\n{title}, sm_{capability}: registers, shared bytes, tensor-core instructions"], []
    for name, recorder in recorders.items():
        assert recorder.launches, name
        for arguments, options in recorder.distinct():
            code = compile_launch(recorder.kernel, arguments, options, capability)
            label = f"{name}{' gathered' if options.get('GATHER') else ''}"
            lines.append(f"  {label:28} {code.registers:4} {code.shared:7} {code.tensor_core}")
            if code.stack or code.spills:
                faults.append(f"{label}: {code.stack} bytes of stack, {code.spills} of spills")
            if name in WITH_PRODUCTS and not code.tensor_core:
                faults.append(f"{label}: no tensor-core instruction")
    with capsys.disabled():
        print("\n".join(lines))
    assert not faults, faults


def every(slow: Callable[[int, int, torch.dtype], bool]) -> list:
    """Capability, head width and type: all of them, but the `slow` ones marked so."""
    cases = [
        (capability, d, dtype)
        for capability in (90, 80)
        for d in (16, 30, 32, 48, 64)
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    ]
    return [pytest.param(*case, marks=pytest.mark.slow if slow(*case) else ()) for case in cases]


OFTEN = {(90, 30, torch.bfloat16), (80, 64, torch.float32)}


@pytest.mark.parametrize(("capability", "d", "dtype"), every(slow=lambda *case: case not in OFTEN))
def test_attention_stays_in_registers_and_on_tensor_cores(
    recorders: dict[str, Recorder],
    capability: int,
    d: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    launch_attention(key_graph(torch.zeros(2, SIDE**2, 2), 64), d, dtype)  # which gathers
    launch_attention(key_graph(torch.zeros(2, SIDE**2, 2), 512), d, dtype)
    recorders = {name: recorder for name, recorder in recorders.items() if name in ATTENTION}
    check(recorders, capability, f"heads of {d} channels, {dtype}", monkeypatch, capsys)


@pytest.mark.parametrize(
    ("capability", "nodes"),
    [
        (90, 1024),
        (80, 4096),
        *(pytest.param(c, n, marks=pytest.mark.slow) for c in (90, 80) for n in (64, 256)),
    ],
)
def test_graph_construction_stays_in_registers_and_on_tensor_cores(
    recorders: dict[str, Recorder],
    capability: int,
    nodes: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    for regions in (None, torch.zeros(1, nodes, dtype=torch.int8)):
        key_graph(torch.zeros(2, nodes, 180), nodes // 16, regions=regions)
    recorders = {name: recorder for name, recorder in recorders.items() if name not in ATTENTION}
    check(recorders, capability, f"graphs of {nodes} nodes", monkeypatch, capsys)
