"""Every kernel, as the model launches it, becomes sound machine code for sm_80 and sm_90; no GPU needed."""

import platform

import pytest
import torch

from kgt import graph as graph_module
from kgt import kernels
from kgt.attention import forced, key_graph_attention
from kgt.graph import KeyGraph, key_graph
from kgt.tiles import TILE

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


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorder]:
    """By name; while this fixture lives, the CPU counts as a device that launches kernels."""
    monkeypatch.setattr(kernels, "_INSTALLED", True)
    monkeypatch.setattr(kernels, "_INTERPRETED", True)
    monkeypatch.setattr(graph_module, "_check_entries", lambda _: None)  # nothing is computed
    found = {}
    for module, names in LAUNCHED.items():
        for name in names:
            found[name] = Recorder(getattr(module, name))
            monkeypatch.setattr(module, name, found[name])
    return found


def launch_attention(graph: KeyGraph, side: int, d: int, dtype: torch.dtype) -> None:
    """Forward and backward of six heads of a packed projection, as `kgt.layers.Attention` makes them."""
    windows, nodes = graph.counts.shape
    packed = torch.zeros(windows, nodes, 3, 6, d, dtype=dtype, requires_grad=True)
    q, k, v = (x.transpose(1, 2) for x in packed.unbind(2))
    bias = torch.zeros(6, 2 * side - 1, 2 * side - 1, requires_grad=True)
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


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
OFTEN = [(90, 30, BF16, 32), (80, 64, FP32, 32)]
SELDOM = [
    *((c, d, dtype, 32) for c in (90, 80) for d in (16, 30, 32, 48, 64) for dtype in (BF16, FP16, FP32)),
    *((c, 32, dtype, side) for c in (90, 80) for dtype in (BF16, FP32) for side in (8, 64)),
]


@pytest.mark.parametrize(
    ("capability", "d", "dtype", "side"),
    [*OFTEN, *(pytest.param(*case, marks=pytest.mark.slow) for case in SELDOM if case not in OFTEN)],
)
def test_attention_stays_in_registers_and_on_tensor_cores(
    recorders: dict[str, Recorder],
    capability: int,
    d: int,
    dtype: torch.dtype,
    side: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    for k in (side**2 // 16, side**2 // 2):  # gathered, unless the window is one tile, and not
        launch_attention(key_graph(torch.zeros(2, side**2, 2), k), side, d, dtype)
    recorders = {name: recorder for name, recorder in recorders.items() if name in ATTENTION}
    assert all(recorder.launches for recorder in recorders.values())
    check(recorders, capability, f"heads of {d} channels, windows of {side}², {dtype}", monkeypatch, capsys)


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
    assert nodes == TILE or all(recorder.launches for recorder in recorders.values())  # one tile gathers nothing
    check(recorders, capability, f"graphs of {nodes} nodes", monkeypatch, capsys)
