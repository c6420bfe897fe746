"""JIT of the CPU kernels: cpu_kernels.ll, compiled for the host's processor and run on torch's OpenMP team.

script/compile-kernels makes the IR from cpu_kernels.c, so a user's machine needs no C compiler. A kernel compiles in
10 to 60 ms, at its first call. A second thread team would compete with torch's for the cores. Does not know what the
kernels compute.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import torch
from torch import Tensor

_IR = Path(__file__).with_name("cpu_kernels.ll")
_this_thread = threading.local()
# An engine owns the code that it compiled.
_engines: list[llvm.ExecutionEngine] = []
# Some 26 µs: fewer were slower alone, where threads then sleep for short differences (benchmarks/LOG.md).
_N_SPINS = 100_000


def run(kernel: int, *args: Tensor | int, n_threads: int | None = None) -> None:
    """Call a kernel on the caller's team, or this many of it; `args` are its struct's fields, tensors contiguous."""
    fields = [arg if isinstance(arg, int) else arg.data_ptr() for arg in args]
    array = (ctypes.c_int64 * len(fields))(*fields)
    _team()(kernel, array, n_threads or torch.get_num_threads(), 0)
    if (calls := getattr(_this_thread, "calls", None)) is not None:
        calls.append((kernel, array, args))


def record(compute: Callable[[], object]) -> Callable[[int], None]:
    """Call a function, and return another that repeats all its kernels' calls by one, on so many threads.

    The tensors are the same ones. What else the function computes is not repeated.
    """
    calls: list[tuple[int, ctypes.Array[ctypes.c_int64], tuple[Tensor | int, ...]]] = []
    _this_thread.calls = calls
    try:
        compute()
    finally:
        _this_thread.calls = None
    addresses = [address for kernel, array, _ in calls for address in (kernel, ctypes.addressof(array))]
    table = (ctypes.c_int64 * len(addresses))(*addresses)
    barrier, libc = (ctypes.c_int64 * 18)(), ctypes.CDLL(None)  # its fields are in cpu_kernels.c
    libc.pthread_mutex_init(ctypes.byref(barrier, 16), None)
    libc.pthread_cond_init(ctypes.byref(barrier, 80), None)

    def replay(n_threads: int) -> None:
        # `calls` keeps the arguments alive; `table` and `barrier` have no other owner.
        addresses = ctypes.addressof(table), len(calls), ctypes.addressof(barrier)
        run(compile_kernel("replay", N_SPINS=_N_SPINS), *addresses, n_threads=n_threads)

    return replay


def is_available() -> bool:
    """Whether LLVM supports this processor, and torch's OpenMP can run a kernel."""
    try:
        _team()
        host_machine()
    except (OSError, AttributeError, RuntimeError):
        return False
    return True


@functools.cache
def _team() -> Callable[..., None]:
    """``GOMP_parallel`` of torch's OpenMP: calls a function on all threads of the caller's team."""
    library = next(Path(torch.__file__).parent.glob("lib/lib*omp[-.5]*"), None)
    if library is None:
        raise OSError("torch has no OpenMP of its own")
    openmp = ctypes.CDLL(str(library))
    team = openmp.GOMP_parallel
    team.argtypes, team.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    for name in ("omp_get_thread_num", "omp_get_num_threads"):
        llvm.add_symbol(name, ctypes.cast(openmp[name], ctypes.c_void_p).value)
    return team


@functools.cache
def compile_kernel(name: str, **constants: int) -> int:
    """The address of a kernel of cpu_kernels.c, given the specialisation constants that it reads."""
    machine = host_machine()
    engine = llvm.create_mcjit_compiler(specialise(machine, name, **constants), machine)
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(name))


def specialise(machine: llvm.TargetMachine, name: str, **constants: int) -> llvm.ModuleRef:
    """A module of one kernel, its constants defined, optimised for a machine."""
    module = _module().clone()
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.link_in(
        llvm.parse_assembly("\n".join(f"@{key} = constant i64 {int(value)}" for key, value in constants.items()))
    )
    for each in module.functions:
        if not each.is_declaration and each.name != name:
            each.linkage = llvm.Linkage.internal
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_unrolling = options.loop_vectorization = options.loop_interleaving = False  # but where the C asks
    passes = llvm.create_pass_builder(machine, options)
    unused = llvm.create_new_module_pass_manager()
    unused.add_global_dead_code_eliminate_pass()
    unused.run(module, passes)
    passes.getModulePassManager().run(module, passes)
    return module


@functools.cache
def _module() -> llvm.ModuleRef:
    return llvm.parse_assembly(_IR.read_text())


def host_machine() -> llvm.TargetMachine:
    """LLVM's description of this processor; an engine owns the one it is made with."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    if "avx512f" in features:
        features["prefer-256-bit"] = False  # the default for some processors, which are no slower with 512
    if "avx512vnni" in features:
        features["fast-dpwssd"] = True  # one vpdpwssd for dot_int16, which LLVM splits in two by default
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3, jit=True
    )
