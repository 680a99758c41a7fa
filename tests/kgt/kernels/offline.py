"""Compiles kernel launches for GPUs that need not be there, and reads from the machine code what became of them."""

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
}


@dataclass
class Recorder:
    """Stands for a kernel: notes the arguments of every launch, and launches nothing."""

    kernel: Any
    launches: list[tuple[tuple, dict[str, Any]]] = field(default_factory=list)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **options: self.launches.append((arguments, options))

    def distinct(self) -> list[tuple[tuple, dict[str, Any]]]:
        """The launches that Triton would compile anew for."""
        return list({repr(specialisation(self.kernel, *launch)): launch for launch in self.launches}.values())


@dataclass(frozen=True)
class Code:
    """What a kernel became. registers: of a thread. stack, spills: bytes of a thread. shared: bytes of a program."""

    registers: int
    stack: int
    spills: int
    shared: int
    tensor_core: str


def specialisation(kernel: Any, arguments: tuple, options: dict[str, Any]) -> tuple[dict, dict, dict, dict]:
    """Types, constants, alignments and compiler options of a launch: what Triton compiles a kernel anew for."""
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | {
        name: value for name, value in options.items() if name in kernel.arg_names
    }
    compiler_options = {name: value for name, value in options.items() if name not in kernel.arg_names}
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        value = given[name]
        if isinstance(value, torch.Tensor):
            signature[name], aligned = f"*{_TYPES[value.dtype]}", value.data_ptr() % 16 == 0
        elif value is None or value == 1 or kernel.params[place].is_constexpr:
            signature[name], constants[name], aligned = "constexpr", value, False
        else:
            signature[name], aligned = ("fp32", False) if isinstance(value, float) else ("i32", value % 16 == 0)
        if aligned:
            attributes[place,] = [["tt.divisibility", 16]]
    return signature, constants, attributes, compiler_options


def compile_launch(kernel: Any, arguments: tuple, options: dict[str, Any], capability: int) -> Code:
    """As Triton would at this launch on compute capability `capability` (90: sm_90)."""
    signature, constants, attributes, compiler_options = specialisation(kernel, arguments, options)
    source = ASTSource(kernel, signature, constants, attributes)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=compiler_options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        code = _run("nvdisasm", "-c", file.name)
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    spills = 4 * len(re.findall(r"\b(?:STL|LDL)\b", code))
    tensor_core = "/".join(sorted(set(re.findall(r"\b(?:HG|H|Q)MMA\b", code))))
    return Code(registers, stack, spills, built.metadata.shared, tensor_core)


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([_TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout
