"""Makes a process of the tests cheaper, without a change of what is lowered or computed."""

import functools
import gc
import threading

from jax._src import compiler, traceback_util
from jax._src.interpreters import mlir
from jax._src.lib.mlir import ir
from jaxtyping import _decorator

_of_thread = threading.local()


def _at_work():
    try:
        return ir.Context.current is not None
    except ValueError:
        return False


def _sharing(make):
    """A maker of MLIR contexts that hands out each of them a hundred times, in one thread."""

    def shared():
        # Some rules compile a little program while one is lowered, whose context is at work.
        if _at_work():
            return make()
        # A context keeps what its programs held, so that it is left in time; threads must not share one.
        if getattr(_of_thread, "left", 0) == 0:
            _of_thread.context, _of_thread.left = make(), 100
        _of_thread.left -= 1
        return _of_thread.context

    return shared


# JAX loads all dialects of MLIR anew for each lowering, which takes longer than lowering a small program.
if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = _sharing(mlir.make_ir_context)


def _remembering(include):
    """The same answer about a file, found once for as long as no more paths are left out."""
    answer = functools.cache(lambda filename, excluded: include(filename))
    return lambda filename: answer(filename, len(traceback_util._exclude_paths))


# Each check of a value under tracing asks it of each frame of the stack, 35 times the file system: a tenth of the time.
if hasattr(traceback_util, "include_filename") and hasattr(traceback_util, "_exclude_paths"):
    traceback_util.include_filename = _remembering(traceback_util.include_filename)


def _of_equal_signatures(make):
    """A maker of checkers that makes those of a function once, however often the function is defined."""
    kept = functools.cache(make)

    def making(*args, **keywords):
        try:
            return kept(*args, **keywords)
        except TypeError:  # a default that cannot be compared
            return make(*args, **keywords)

    return making


# A function inside another is defined anew by each call, and its checkers of arguments and results with it.
for _name in ("_make_fn_with_signature", "_apply_typechecker"):
    if hasattr(_decorator, _name):
        setattr(_decorator, _name, _of_equal_signatures(getattr(_decorator, _name)))


def _leaving_loops(make):
    """A maker of options that leaves out, where nothing is optimised, moves out of loops and XLA's check of itself.

    As one of XLA's flags it would be kept once more by each compilation, since the flags are read again by each.
    """

    def making(*args, **keywords):
        options = make(*args, **keywords)
        debug = options.executable_build_options.debug_options
        if debug.xla_backend_optimization_level == 0 and not debug.xla_disable_hlo_passes:
            debug.xla_disable_hlo_passes = "while-loop-invariant-code-motion,hlo-verifier"
        return options

    return making


# Each loop around a loop has all passes look through both again: with the check a quarter of compiling a slope.
if hasattr(compiler, "get_compile_options"):
    compiler.get_compile_options = _leaving_loops(compiler.get_compile_options)


def freeze():
    """Keep the garbage collector from what stays; called when everything is imported."""
    # Tracing leaves many objects that stay: Python's own thresholds make it look through them for a tenth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
