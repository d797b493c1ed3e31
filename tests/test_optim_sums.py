"""Sums over trees and the choice between two states, which take paths of their own on a CPU."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels import longest_kernel
from optimizers import compiled

from rxjax.optim._wide import in_rows, in_turns, inner, inners, replace_unless, square

# Short ones, blocks, rows (many of them too), slabs and what fits none of them.
SHAPES = [
    (3,),
    (257, 257),
    (8, 4099),
    (1000,),
    (2048, 130),
    (128, 16),
    (128, 10),
    (40, 33),
    (256, 128),
    (40, 1000),
    (3, 3, 64, 64),
    (32768,),
    (32769,),
    (1311, 25),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_inner_products_are_those_of_numpy(shape):
    random = np.random.default_rng(0)
    x, y = (random.standard_normal((2, *shape)).astype(np.float32) for _ in range(2))
    exact = [np.sum(a.astype(float) * b) for a, b in zip(x, y, strict=True)]
    size = [np.sum(a.astype(float) ** 2) for a in x]
    both = lambda a, b: (inner([a], [b], jnp.float32), square(in_rows([a]), jnp.float32))
    one = compiled(both)
    many = compiled(jax.vmap(both))(x, y)
    # Gradients as XLA sees them: the transposes of something.
    turned = compiled(lambda a, b: both(jnp.moveaxis(a, 0, -1), jnp.moveaxis(b, 0, -1)))
    back = [np.ascontiguousarray(np.moveaxis(a[0], -1, 0)) for a in (x, y)]
    for found in ((many[0][0], many[1][0]), one(x[0], y[0]), turned(*back)):
        np.testing.assert_allclose(found[0], exact[0], atol=2e-6 * size[0])
        np.testing.assert_allclose(found[1], size[0], rtol=2e-6)
    np.testing.assert_allclose(many[0], exact, atol=2e-6 * size[0])
    gradient = compiled(jax.grad(lambda a: square([a], jnp.float32)))(x[0])
    np.testing.assert_allclose(gradient, 2 * x[0], rtol=1e-6)


def test_inner_products_of_many_pairs_are_those_of_one():
    """Leaves of every kind, real and complex, of two types, and an empty one."""
    random = np.random.default_rng(1)
    make = lambda: [
        *(
            random.standard_normal(shape).astype(np.float32)
            for shape in ((3,), (128, 16), (256, 128), (1311, 25), (0,))
        ),
        random.standard_normal((40, 33)),
        random.standard_normal((16, 4)) + 1j * random.standard_normal((16, 4)),
    ]
    a, b, c = make(), make(), make()
    exact = lambda a, b: sum(np.sum((np.conj(x) * y).real.astype(float)) for x, y in zip(a, b, strict=True))
    pairs = lambda a, b, c: [(a, b), (c, c), (a, a), (b, b)]
    found = compiled(lambda *trees: inners(pairs(*trees), jnp.float64))(a, b, c)
    np.testing.assert_allclose(found, [exact(*pair) for pair in pairs(a, b, c)], rtol=1e-6, atol=0.1)
    assert [x.dtype for x in found] == [jnp.float64] * 4
    assert inners([((), ()), ((), ())], jnp.float32) == [0, 0]


def test_inner_products_of_many_pairs_are_differentiated_twice():
    """Those of a leaf that is read once for all pairs: JAX's own rule for such a sum works once."""
    x, y = jnp.asarray(np.random.default_rng(2).standard_normal((2, 64, 32)))
    value = lambda x: inners([([x], [y]), ([x], [x]), ([y], [y])], jnp.float64)[1]
    first, second = compiled(lambda x, y: jax.jvp(jax.grad(value), (x,), (y,)))(x, y)
    np.testing.assert_allclose(first, 2 * x)
    np.testing.assert_allclose(second, 2 * y)


def test_a_state_is_replaced_unless_the_condition_holds():
    new = {"x": jnp.arange(3.0), "count": jnp.array(4)}
    old = {"x": -jnp.arange(3.0), "count": jnp.array(3)}
    choose = jax.jit(lambda ok, a, b: replace_unless(ok, a, b))
    for ok, expected in ((True, new), (False, old)):
        jax.tree.map(np.testing.assert_array_equal, choose(jnp.array(ok), new, old), expected)
    many = jax.vmap(choose, (0, None, None))(jnp.array([True, False]), new, old)
    np.testing.assert_array_equal(many["count"], [4, 3])

    for ok, of_new, of_old in ((True, 2, 0), (False, 0, 2)):
        total = lambda a, b, ok=ok: jnp.sum(2 * choose(jnp.array(ok), {**new, "x": a}, {**old, "x": b})["x"])
        for mode in (jax.grad, jax.jacfwd):
            a, b = mode(total, (0, 1))(new["x"], old["x"])
            np.testing.assert_array_equal(a, np.full(3, of_new))
            np.testing.assert_array_equal(b, np.full(3, of_old))
    # A base optimizer that changes a type is left to the ordinary rules.
    with jax.numpy_dtype_promotion("standard"):
        assert choose(jnp.array(True), jnp.ones(2), jnp.zeros(2, jnp.float32)).dtype == jnp.float64


def test_a_state_that_is_kept_costs_no_pass():
    """Neither copies nor choices between arrays are left in the compiled step."""

    def step(x, state):
        new = 0.9 * state + 0.1 * x
        return replace_unless(jnp.sum(new * x) > 0, new, state)

    x = jnp.ones((64, 64))
    text = str(jax.jit(step).lower(x, x).compile().as_text())
    main = text[text.index("ENTRY") :]
    # The loop, which turns where the old state is kept, may lie in a function of its own.
    assert "while(" in text and "copy(" not in main and "select" not in text


def test_leaves_are_worked_on_in_turns():
    """Two by two, each told apart by nothing but when it is done: values, also where they are not finite, are those of
    a plain map, and what the order hangs on is left in the compiled program."""
    leaves = [jnp.array([jnp.inf, 1.0]), jnp.array([jnp.nan]), jnp.zeros((0, 2)), jnp.array(2.0), jnp.array([1j, 2.0])]
    step = lambda ok, x: (jnp.where(ok, 2 * x, 0), x + 1)
    both = jax.jit(lambda ok, tree: in_turns(step, ok, tree))
    tree = dict(zip("abcde", leaves, strict=True))
    for ok in (True, False):
        for got, k in zip(both(jnp.array(ok), tree), range(2), strict=True):
            jax.tree.map(lambda x, y, ok=ok, k=k: np.testing.assert_array_equal(y, step(ok, x)[k]), tree, got)
    many = jax.vmap(both, (0, None))(jnp.array([True, False]), tree)[0]
    np.testing.assert_array_equal(many["d"], [4.0, 0.0])
    assert both(jnp.array(True), {}) == ({}, {})

    text = str(both.lower(jnp.array(True), [jnp.ones((8, 8))] * 6).compile().as_text())
    assert len(re.findall(r"constant\(.*\binf\b", text)) == 2


def test_no_kernel_grows_with_the_number_of_leaves():
    """The time to compile one would grow faster still: it was minutes for the 144 arrays of a transformer."""

    def longest(leaves):
        x = [jnp.ones((8, 16), jnp.float32)] * leaves
        return longest_kernel(lambda x, y: inners([(x, y), (x, x), (y, y)], jnp.float32), x, x)

    assert longest(32) < 1.2 * longest(8)


DIVIDED = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, jax.numpy as jnp, rxjax as rx
mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
optimizer = rx.optim.rate_adamw(10)
for shape in ((512, 256), (128, 128)):
    x = jax.device_put(jnp.ones(shape, jnp.float32), jax.NamedSharding(mesh, jax.P("x")))
    step = jax.jit(lambda x, state: optimizer.update(x, state, x))
    print("all-gather" in step.lower(x, optimizer.init(x)).compile().as_text())
"""


def test_arrays_that_the_compiler_divides_are_not_gathered():
    """Implicit sharding, of which no type tells, in a process of its own: eight devices on one CPU."""
    out = subprocess.run([sys.executable, "-c", DIVIDED], capture_output=True, text=True, timeout=300)
    assert out.stdout.split() == ["False", "False"], out.stderr[-3000:]
