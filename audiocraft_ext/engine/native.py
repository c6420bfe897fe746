"""Functions for the CPU, written in LLVM's language: compiled for the machine's own processor, run by torch's threads.

llvmlite compiles one in some 30 ms. OpenMP's own team for torch runs it: a second team would fight with the first for
the cores. Nothing here knows what is computed.

A vector has ``LANES`` numbers whatever the processor has: LLVM makes two or four of its own of one where they are
shorter. Sums, products and their order are as written and no fast-math rearranges them.
"""

import ctypes
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import llvmlite.binding as llvm
import torch
from llvmlite import ir
from llvmlite.ir import Type, Value
from torch import Tensor

LANES = 16

I8, I16, I32, I64 = (ir.IntType(n_bits) for n_bits in (8, 16, 32, 64))
F32, POINTER = ir.FloatType(), ir.PointerType()
_NAME, _KERNEL = "kernel", ir.FunctionType(ir.VoidType(), [POINTER])
F32S, I8S, I16S, I32S = (ir.VectorType(kind, LANES) for kind in (F32, I8, I16, I32))


def run(kernel: int, *arguments: Tensor | int) -> None:
    """Calls a kernel from each of the calling thread's cores; tensors are contiguous, and what it expects."""
    values = [value if isinstance(value, int) else value.data_ptr() for value in arguments]
    array = (ctypes.c_int64 * len(values))(*values)
    _team()(kernel, array, torch.get_num_threads(), 0)
    if recording := getattr(_this_thread, "recording", None):
        recording.add(kernel, array, arguments)


class Recording:
    """Kernels that were run one after the other, to be run so again by one call, on the same tensors."""

    def __init__(self) -> None:
        self._calls: list[tuple[int, int]] = []
        self._kept: list[object] = []
        self._array = (ctypes.c_int64 * 0)()

    def add(self, kernel: int, array: "ctypes.Array[ctypes.c_int64]", arguments: tuple[Tensor | int, ...]) -> None:
        self._calls.append((kernel, ctypes.addressof(array)))
        self._kept += [array, *arguments]

    def replay(self) -> None:
        if len(self._array) != 2 * len(self._calls):
            self._array = (ctypes.c_int64 * (2 * len(self._calls)))(*itertools.chain.from_iterable(self._calls))
        run(_replay(), ctypes.addressof(self._array), len(self._calls))


_this_thread = threading.local()


@contextmanager
def recorded() -> Iterator[Recording]:
    """Kernels that this thread runs within are recorded; what else it computes is not."""
    recording = Recording()
    _this_thread.recording = recording
    try:
        yield recording
    finally:
        _this_thread.recording = None


@functools.cache
def _replay() -> int:
    def write(c: "Code", calls: Value, n_calls: Value) -> None:
        with c.loop(I64(0), n_calls) as i:
            place = c.mul(i, I64(2))
            kernel, arguments = c.load(I64, calls, place), c.load(I64, calls, c.add(place, I64(1)))
            c.call(c.inttoptr(kernel, _KERNEL.as_pointer()), [c.inttoptr(arguments, POINTER)])
            c.call_of("GOMP_barrier", kind=ir.VoidType())

    return compiled(2, write)


def is_available() -> bool:
    """Whether LLVM knows the processor, and torch has an OpenMP that can be asked to run something."""
    try:
        _team()
        _machine()
    except (OSError, AttributeError, RuntimeError):
        return False
    return True


@functools.cache
def _team() -> Callable[..., None]:
    """``GOMP_parallel`` of torch's OpenMP: has a function called by all threads of the calling thread's team."""
    library = next(Path(torch.__file__).parent.glob("lib/lib*omp[-.5]*"), None)
    if library is None:
        raise OSError("torch has no OpenMP of its own")
    openmp = ctypes.CDLL(str(library))
    team = openmp.GOMP_parallel
    team.argtypes, team.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    for name in ("omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier"):
        llvm.add_symbol(name, ctypes.cast(openmp[name], ctypes.c_void_p).value)
    return team


def compiled(n_arguments: int, write: Callable[..., None]) -> int:
    """The address of a function of ``n_arguments`` 64-bit numbers; ``write(code, *arguments)`` writes its body."""
    module = ir.Module()
    function = ir.Function(module, _KERNEL, _NAME)
    code = Code(function.append_basic_block())
    write(code, *(code.load(I64, function.args[0], I64(i)) for i in range(n_arguments)))
    code.ret_void()
    machine = _machine()
    parsed = llvm.parse_assembly(str(module))
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(_NAME))


# What is compiled lives as long as what compiled it.
_engines: list[llvm.ExecutionEngine] = []


def _machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    if "avx512f" in features:
        features["prefer-256-bit"] = False  # the default for some processors, which are no slower with 512
    if "avx512vnni" in features:
        features["fast-dpwssd"] = True  # one instruction for `paired` and its sum, which LLVM makes two of by default
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3, jit=True
    )


class Code(ir.IRBuilder):
    """llvmlite's builder, with the words that our kernels are written in. Addresses are 64-bit numbers."""

    def at(self, kind: Type, base: Value, index: Value) -> Value:
        """A pointer to an element of an array of ``kind``."""
        if base.type == I64:
            base = self.inttoptr(base, POINTER)
        return self.gep(base, [index], source_etype=kind)

    def load(self, kind: Type, base: Value, index: Value) -> Value:
        """An element of an array of ``kind``."""
        return super().load(self.at(kind, base, index), typ=kind)

    def loads(self, kind: Type, base: Value, index: Value, n: int = LANES) -> Value:
        """``n`` elements of an array of ``kind``, from ``index`` on."""
        return super().load(self.at(kind, base, index), typ=ir.VectorType(kind, n), align=1)

    def put(self, value: Value, base: Value, index: Value) -> None:
        """Writes an element, or ``LANES`` of them from ``index`` on."""
        kind = value.type.element if isinstance(value.type, ir.VectorType) else value.type
        self.store(value, self.at(kind, base, index), align=1)

    def widened(self, numbers: Value) -> Value:
        """fp32 numbers of int8 ones, or of themselves."""
        return self.sitofp(numbers, F32S) if numbers.type.element == I8 else numbers

    def variable(self, first: Value) -> Value:
        """A place that can be read and written; on the stack, which LLVM makes a register of."""
        with self.goto_entry_block():
            place = self.alloca(first.type)
        self.store(first, place)
        return place

    def room(self, kind: Type, n: int) -> Value:
        """A place for ``n`` values, on the stack."""
        with self.goto_entry_block():
            return self.alloca(kind, n)

    def get(self, place: Value, kind: Type = F32S) -> Value:
        """What a variable holds."""
        return super().load(place, typ=kind)

    def copy(self, places: list[Value], others: list[Value], kind: Type) -> None:
        """What some variables hold becomes what others hold."""
        for place, other in zip(places, others, strict=True):
            self.store(self.get(place, kind), other)

    def call_of(self, name: str, *arguments: Value, kind: Type | None = None) -> Value:
        """One of LLVM's own functions, or of OpenMP's."""
        kind = arguments[0].type if kind is None else kind
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(kind, [value.type for value in arguments]), name)
        return self.call(function, arguments)

    def ask_for(self, place: Value) -> None:
        """Has the memory send what is there, for later: to the second-level cache, where more can be on its way."""
        self.call_of("llvm.prefetch.p0", place, I32(0), I32(2), I32(1), kind=ir.VoidType())

    def fused(self, a: Value, b: Value, c: Value) -> Value:
        """a b + c, rounded once."""
        return self.call_of(f"llvm.fma.v{LANES}f32", a, b, c)

    def smaller(self, a: Value, b: Value) -> Value:
        """The smaller of two signed integers."""
        return self.select(self.icmp_signed("<", a, b), a, b)

    def larger(self, a: Value, b: Value) -> Value:
        """The larger of two fp32 numbers, or lane by lane of two vectors; if one is NaN, the second."""
        return self.select(self.fcmp_ordered(">", a, b), a, b)

    def rounded(self, numbers: Value) -> Value:
        """The nearest 32-bit integers, of two the even one, of numbers below 2^22 in size; any of what is NaN.

        As the last digits of a sum whose first ones are known: LLVM takes its own conversion, which minds NaN, number
        by number.
        """
        first_digits = self.all(1.5 * 2**23)
        return self.sub(*(self.bitcast(n, I32S) for n in (self.fadd(numbers, first_digits), first_digits)))

    def integers_of(self, sizes: Value, zeros: Value, largest: int) -> tuple[Value, Value]:
        """What one counts of the integers up to ``largest`` that numbers of these sizes become, and what makes them so.

        ``zeros`` are the numbers times 0: what is not finite counts NaN.
        """
        top = self.halved(sizes, self.larger)
        step = self.fadd(self.fdiv(top, F32(largest)), self.added_up(zeros))
        return step, self.all(self.fdiv(F32(largest), self.larger(top, F32(1e-30))))

    def paired(self, a: Value, b: Value) -> Value:
        """The products of two vectors of twice ``LANES`` short integers, pairs of neighbours added up, in 32 bits."""
        wide = ir.VectorType(I32, 2 * LANES)
        products = self.mul(self.sext(a, wide), self.sext(b, wide))
        return self.add(*(self.lanes_of(products, list(range(first, 2 * LANES, 2))) for first in (0, 1)))

    def all(self, value: Value | float) -> Value:
        """A vector of ``LANES`` times one number."""
        if isinstance(value, int | float):
            return F32S([value] * LANES)
        lone = self.insert_element(F32S(ir.Undefined), value, I32(0))
        return self.lanes_of(lone, [0] * LANES)

    def lanes_of(self, vector: Value, lanes: list[int], behind: Value | None = None) -> Value:
        """A vector of these lanes of another, or of two, one behind the other."""
        return self.shuffle_vector(vector, behind or vector, ir.VectorType(I32, len(lanes))(lanes))

    def halved(self, lanes: Value, join: Callable[[Value, Value], Value]) -> Value:
        """One number of a vector: its halves are joined until one is left."""
        n = LANES
        while n > 1:
            n //= 2
            lanes = join(*(self.lanes_of(lanes, list(range(start, start + n))) for start in (0, n)))
        return self.extract_element(lanes, I32(0))

    def added_up(self, lanes: Value) -> Value:
        """The sum of a vector of fp32 numbers."""
        return self.halved(lanes, self.fadd)

    def all_added_up(self, vectors: list[Value]) -> Value:
        """A vector of the sums of up to ``LANES`` vectors, each added up in the order of ``added_up``."""
        n = LANES
        while n > 1:
            n //= 2
            firsts, seconds = (
                [start + i for start in range(offset, 2 * LANES, 2 * n) for i in range(n)] for offset in (0, n)
            )
            pairs = itertools.zip_longest(vectors[::2], vectors[1::2], fillvalue=vectors[0])
            vectors = [self.fadd(self.lanes_of(a, firsts, b), self.lanes_of(a, seconds, b)) for a, b in pairs]
        return vectors[0]

    def share(self, n: Value) -> tuple[Value, Value]:
        """Which of n pieces of work are this thread's: the first, and the one behind the last."""
        thread, n_threads = (
            self.sext(self.call_of(f"omp_get_{name}", kind=I32), I64) for name in ("thread_num", "num_threads")
        )
        return self.udiv(self.mul(n, thread), n_threads), self.udiv(self.mul(n, self.add(thread, I64(1))), n_threads)

    @contextmanager
    def loop(self, start: Value, stop: Value, step: int = 1) -> Iterator[Value]:
        """What is written within is done for each index from ``start`` up to ``stop``."""
        before, body, after = self.block, self.append_basic_block(), self.append_basic_block()
        self.cbranch(self.icmp_signed("<", start, stop), body, after)
        self.position_at_end(body)
        index = self.phi(I64)
        index.add_incoming(start, before)
        yield index
        following = self.add(index, I64(step))
        index.add_incoming(following, self.block)
        self.cbranch(self.icmp_signed("<", following, stop), body, after)
        self.position_at_end(after)
