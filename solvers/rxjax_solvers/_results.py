"""How a verb ended, in words."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PyTree

from ._checks import checks_on, is_traced

# Arrays of so many numbers are refused in parts.
_LARGE = 2**20

_NOT_UNIQUE = """
The stationary law is not unique: the generator splits into 2 or more closed classes, sets of states never left again.

(a) Rates that are zero, or underflow to zero, cut the states apart: look at `generator.exit_rates()` and the rates; or

(b) the temperature is so low that crossing takes longer than the numbers of this precision can tell from never.

Ask for each class by itself on a smaller grid, or raise the temperature; in float32, switch to float64.
""".strip()

_NO_LAW = """
There is no stationary law: the generator loses mass for good at absorbing sides or exits.

For the law conditioned on survival use `quasi_stationary(generator)`; for the time to the exit
`mean_first_passage_time(generator, None)`.
""".strip()

_UNREACHABLE = """
The target is not reached from everywhere: times are infinite from the states that cannot reach it.

(a) Rates that are zero, or underflow to zero, cut the states apart; or

(b) with `target=None`, no side of the grid is absorbing; or

(c) the barriers are so high that the time overflows this precision: e^88 in float32, e^709 in float64.

Pass a `target` that every state can reach, or raise the temperature.
""".strip()

_NOT_CONVERGED = """
An iteration did not reach its tolerance.

(a) The Krylov space is too small for the question: raise `max_krylov` (or ask for fewer eigenvalues); or

(b) the tolerance is below what rounding allows: loosen `tol`, or switch to float64.
""".strip()

_NOT_NORMAL = """
The rational approximation did not reach its tolerance in the steps allowed.

(a) The start lies uphill over many kT, where the generator is far from normal and only short steps are accurate: raise
`max_steps`, loosen `tol`, or use `method=ShiftInvert()`; `method=Strang()` follows the slide down at any start; or

(b) the tolerance is below what rounding allows: loosen `tol`, or switch to float64.
""".strip()

_UNSOLVED = """
An iterative solve did not reach its tolerance.

(a) A barrier is too high, beyond some 35 kT with a potential and 10 to 20 kT without, or a valley aslant to the axes is
narrower than two cells: eliminate instead, which is right to rounding at any temperature: pass
`factor=factorize(generator, target=target, method=Elimination())`; or

(b) the target is not reached from everywhere, or the generator splits into sets of states that are never left; or

(c) the iteration is slow, as on a long chain of edges: `method=Iteration(max_steps=1000)`; or `tol` is below what
rounding allows.
""".strip()

_NEGATIVE = """
A density fell below zero by more than the tolerance.

A Krylov or rational method is positive only within its error.  (a) The start has structure that the Krylov space does
not resolve at the first times: raise `max_krylov`; or (b) use `method=Strang()`, which is never negative.
""".strip()


class RESULTS(diffrax.RESULTS):  # pyright: ignore[reportGeneralTypeIssues]
    """Outcomes of the solvers: those of diffrax and our own, each with its likely causes and what to type next."""

    successful = ""
    not_unique = _NOT_UNIQUE
    no_stationary_law = _NO_LAW
    unreachable = _UNREACHABLE
    not_converged = _NOT_CONVERGED
    not_normal = _NOT_NORMAL
    unsolved = _UNSOLVED
    negative = _NEGATIVE


def outcome(*faults: tuple[Array, RESULTS]) -> RESULTS:
    """The first of the pairs `(happened, result)` that happened, else success."""
    result = RESULTS.successful
    for happened, member in reversed(faults):
        result = RESULTS.where(happened, member, result)
    return result


def answer(value: PyTree[Array], result: RESULTS, throw: bool) -> PyTree:
    """`value`, refused unless `result` is successful; or `(value, result)` with `throw=False`."""
    if not throw:
        return value, result
    failed = result != RESULTS.successful
    # Where the outcome is known there is nothing to compile.
    if not is_traced(failed):
        return jax.tree.map(lambda x: result.error_if(x, failed), value) if bool(failed) else value
    return jax.tree.map(lambda x: _refused(x, result, failed), value) if checks_on() else value


@eqx.filter_custom_jvp
def _refused(x: Array, result: RESULTS, failed: Bool[Array, ""]) -> Array:
    """`x`, refused if the result `failed`."""
    if x.ndim < 2 or x.size < _LARGE:
        return result.error_if(x, failed)
    # Where they lie, one part after the other: a check of all at once would copy them, into memory that is new.
    part = lambda i, x: x.at[i].set(result.error_if(x[i], failed))
    return lax.fori_loop(0, x.shape[0], part, x)


@_refused.def_jvp
def _(primals, tangents):
    tangent, *_ = tangents
    out = _refused(*primals)
    return out, jnp.zeros_like(out) if tangent is None else tangent
