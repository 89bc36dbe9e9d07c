"""FOR TESTS ONLY: a wheel of the installed torch without CUDA, so that the trainer's image needs 0.7 GB and not 5.

PyPI's torch links against CUDA's libraries even where there is no GPU. Here every one of them is replaced by a stub whose functions all
answer cudaErrorNoDevice, and torch's own CUDA half by one that defines only what the CPU half refers to. The CPU half, libtorch_cpu.so,
is the installed file byte for byte: a model trained in such an image has the bits of one trained on this machine. Never ship it.
"""

from __future__ import annotations

import base64
import collections
import hashlib
import importlib.metadata
import re
import shutil
import tempfile
import zipfile
from pathlib import Path

from tests.cluster.images.tool import ImageError, run

SUFFIX = "+teststub"
_LEFT_OUT = ("torch/include/", "torch/share/", "torch/bin/protoc", "torchgen/packaged/")
_CUDA = re.compile(r"lib(cu|nccl|nv)")
_OWN = ("libtorch_nvshmem.so", "libtorch_cuda_linalg.so", "libtorch_cuda.so")
"""torch's CUDA half; the last links the first."""
_PREFIXES = {
    "libnccl": "nccl", "libcufile": "cuFile", "libcusparseLt": "cusparseLt", "libnvshmem_host": "nvshmem", "libcusolver": "cusolver",
    "libcudnn": "cudnn", "libcublasLt": "cublasLt", "libcublas": "cublas", "libcufft": "cufft", "libcusparse": "cusparse",
    "libnvrtc": "nvrtc", "libcudart": "cuda", "libcupti": "cupti",
}  # fmt: skip
"""Which library an unversioned symbol belongs to, by the beginning of its name."""
_OVERRIDES = "registry._register_all_overrides()"
"""The line of torch/_native that would load kernels written for a GPU."""


def version() -> str:
    """Version of the slim wheel, that of the installed torch with a local suffix."""
    return importlib.metadata.version("torch").partition("+")[0] + SUFFIX


def write_wheel(folder: Path) -> Path:
    """Write the slim wheel of the torch that this interpreter has into a folder."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tree = Path(scratch) / "tree"
        tag = _unpack(tree)
        stub_cuda(tree / "torch" / "lib")
        stub_torch_cuda(tree / "torch" / "lib")
        _without_gpu_kernels(tree / "torch" / "_native" / "__init__.py")
        part = Path(scratch) / "torch.whl"
        _zip(tree, part)
        return part.rename(folder / f"torch-{version()}-{tag}.whl")


def _unpack(tree: Path) -> str:
    """Copy the installed distribution, with metadata that ask for no CUDA packages; the wheel's tag."""
    distribution = importlib.metadata.distribution("torch")
    info = f"torch-{version()}.dist-info"
    for file in distribution.files or []:
        name = file.as_posix()
        if (
            name.startswith(("..", *_LEFT_OUT))
            or "__pycache__" in name
            or name.rpartition("/")[2] in ("RECORD", "INSTALLER", "REQUESTED")
        ):
            continue
        head, _, rest = name.partition("/")
        target = tree / (f"{info}/{rest}" if head.endswith(".dist-info") else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(Path(str(distribution.locate_file(file))), target)
    metadata = tree / info / "METADATA"
    head, gap, text = metadata.read_text("utf-8").partition("\n\n")
    lines = [line for line in head.splitlines() if not re.match(r"Requires-Dist: (nvidia|cuda|triton)", line)]
    lines = [f"Version: {version()}" if line.startswith("Version: ") else line for line in lines]
    metadata.write_text("\n".join(lines) + gap + text, "utf-8")
    tags = re.findall(r"^Tag: (.+)$", (tree / info / "WHEEL").read_text("utf-8"), re.MULTILINE)
    if not tags:
        raise ImageError("The installed torch names no wheel tag; install it anew from its wheel.")
    return str(tags[-1]).strip()


def stub_cuda(folder: Path) -> None:
    """Put a stub of every CUDA library that the libraries of a folder need beside them."""
    needed, versioned, plain = _wanted(folder)
    for library in sorted(needed | set(versioned)):
        base = library.split(".so")[0]
        symbols = {symbol for symbol, _ in versioned.get(library, set())}
        if not symbols and base in _PREFIXES:
            symbols = {symbol for symbol in plain if symbol.startswith(_PREFIXES[base])}
        source = ['static const char *no = "no CUDA (stub)";']
        for symbol in sorted(filter(re.compile(r"[A-Za-z_]\w*$").match, symbols)):
            text = re.search("ErrorString|ErrorName|GetLastErrorString|get_error", symbol)
            source.append(
                f"const char *{symbol}(void) {{ return no; }}"
                if text
                else f"int {symbol}(void) {{ return 100; }}"
            )
        _link(
            folder / library, "\n".join(source) + "\n", ".c", _version_script(versioned.get(library, set()))
        )


def _wanted(folder: Path) -> tuple[set[str], dict[str, set[tuple[str, str]]], set[str]]:
    """CUDA libraries needed and not there; versioned symbols of each; undefined symbols without a version."""
    needed: set[str] = set()
    owner: dict[str, str] = {}
    undefined: set[tuple[str, str]] = set()
    defined: set[str] = set()
    libraries = _libraries(folder)
    for file in libraries:
        needed |= {
            name
            for name in re.findall(r"NEEDED.*\[(.*)\]", run(["readelf", "-dW", file]))
            if _CUDA.match(name)
        }
        library = ""
        for line in run(["readelf", "-VW", file]).splitlines():
            if found := re.search(r"File: (\S+)", line):
                library = found[1]
            if (found := re.search(r"Name: (\S+)", line)) and _CUDA.match(library):
                owner[found[1]] = library
        for kind, symbol, release in _symbols(file):
            if kind in "Uwv":
                undefined.add((symbol, release))
            else:
                defined.add(symbol)
    versioned: dict[str, set[tuple[str, str]]] = collections.defaultdict(set)
    for symbol, release in undefined:
        if release in owner:
            versioned[owner[release]].add((symbol, release))
    plain = {symbol for symbol, release in undefined if not release} - defined
    return needed - {file.name for file in libraries}, versioned, plain


def _version_script(symbols: set[tuple[str, str]]) -> str:
    releases = sorted({release for _, release in symbols})
    return "".join(
        f"{release} {{ global: {' '.join(f'{name};' for name, of in sorted(symbols) if of == release)} }};\n"
        for release in releases
    )


def stub_torch_cuda(folder: Path) -> None:
    """Replace torch's CUDA half by libraries that define only what its CPU half refers to."""
    rest = [file for file in _libraries(folder) if file.name not in _OWN]
    wanted = {symbol for file in rest for kind, symbol, _ in _symbols(file) if kind in "Uwv"}
    for name in _OWN:
        if (folder / name).exists():
            more = ["-l:libstdc++.so.6"]
            more += (
                ["-Wl,--no-as-needed", str(folder / _OWN[0])]
                if name == _OWN[-1] and (folder / _OWN[0]).exists()
                else []
            )
            _link(folder / name, _assembly(folder / name, wanted), ".s", "", more)


def _assembly(library: Path, wanted: set[str]) -> str:
    """Functions answer the address of zeroes: a null pointer, false, or a reference to nothing. Objects are zeroes, types are whole."""
    lines = [".text"]
    for number, line in enumerate(run(["nm", "-D", "-S", "--defined-only", library]).splitlines()):
        parts = line.split()
        symbol, kind = parts[-1].split("@")[0], parts[-2]
        if symbol not in wanted:
            continue
        lines += _definition(symbol, kind, int(parts[1], 16) if len(parts) == 4 else 8, number)
    lines += [
        ".data", ".balign 16", "ti: .quad _ZTVN10__cxxabiv117__class_type_infoE+16", ".quad tin", 'tin: .asciz "7nothing"', ".balign 16",
        "vt: .quad 0", ".quad ti", *[".quad nothing"] * 64, ".text", "nothing: lea zeroblk(%rip),%rax", "ret",
        ".bss", ".balign 65536", "zeroblk: .zero 65536", '.section .note.GNU-stack,"",@progbits',
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _definition(symbol: str, kind: str, size: int, number: int) -> list[str]:
    start = [f".globl {symbol}"]
    if kind in "TtWwi":
        start += [f".type {symbol},@function", f"{symbol}:"]
        if re.search(
            r"C[12]E", symbol
        ):  # a constructor: give the object a vtable whose every slot does nothing
            return [*start, "lea vt+16(%rip),%rax", "mov %rax,(%rdi)", "ret"]
        return [*start, "lea zeroblk(%rip),%rax", "ret"]
    start += [f".type {symbol},@object"]
    if symbol.startswith("_ZTI"):  # pybind11 hashes the name of a type, so a type's description must be whole
        whole = [
            ".quad _ZTVN10__cxxabiv117__class_type_infoE+16",
            f".quad nm{number}",
            f'nm{number}: .asciz "{symbol[4:]}"',
        ]
        return [".data", ".balign 8", *start, f".size {symbol},16", f"{symbol}:", *whole, ".text"]
    size = max(size, 8)
    return [".data", ".balign 32", *start, f".size {symbol},{size}", f"{symbol}: .zero {size}", ".text"]


def _libraries(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if ".so" in file.name and file.is_file())


def _symbols(library: Path) -> list[tuple[str, str, str]]:
    """Kind, name and version of each dynamic symbol."""
    found = []
    for line in run(["nm", "-D", library]).splitlines():
        *_, kind, symbol = line.split()
        name, _, release = symbol.partition("@")
        found.append((kind, name, release.lstrip("@")))
    return found


def _link(target: Path, source: str, suffix: str, script: str, more: list[str] | None = None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / f"stub{suffix}"
        text.write_text(source)
        words = [
            "gcc",
            "-shared",
            "-fPIC",
            "-O1",
            "-s",
            "-nostdlib",
            "-w",
            str(text),
            f"-Wl,-soname,{target.name}",
            *(more or []),
        ]
        if script:
            (Path(scratch) / "map").write_text(script)
            words.append(f"-Wl,--version-script={scratch}/map")
        built = Path(scratch) / "built.so"
        run([*words, "-o", built])
        target.unlink(missing_ok=True)
        shutil.copy2(built, target)


def _without_gpu_kernels(file: Path) -> None:
    text = file.read_text("utf-8")
    if text.count(_OVERRIDES) != 1:
        raise ImageError(
            f"{file.name} of torch {version()} no longer calls {_OVERRIDES}: adapt torch_stub.py to this torch."
        )
    file.write_text(text.replace(_OVERRIDES, "pass  # the stub has no GPU"), "utf-8")


def _zip(tree: Path, target: Path) -> None:
    """A wheel, stored and not squeezed: it is read once."""
    record = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as wheel:
        for file in sorted(path for path in tree.rglob("*") if path.is_file()):
            name, content = file.relative_to(tree).as_posix(), file.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}")
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o100000 | (file.stat().st_mode & 0o777)) << 16
            wheel.writestr(entry, content)
        name = f"torch-{version()}.dist-info/RECORD"
        wheel.writestr(name, "\n".join([*record, f"{name},,", ""]))
