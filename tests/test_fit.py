"""What a device would need: the command on this machine's CPU, what it refuses, and its parts."""

import importlib.metadata
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from dualcap_jax import fit
from dualcap_jax.cli import run as run_main
from dualcap_jax.fields import bytes_of
from dualcap_jax.fitting.compiling import collectives
from dualcap_jax.fitting.devices import DEVICES, target
from dualcap_jax.fitting.flops import flops
from dualcap_jax.fitting.largest import largest_that_fits
from tests.commands import NETWORK, environment, run

SMALL = [*NETWORK, "--model.merger.kind", "skip_mlp", "--decoding.num-beams", "2", "--decoding.batch-size", "2"]


def test_it_tells_what_the_steps_of_an_experiment_take():
    done = run("fit", "--device", "cpu", "--memory", "1GiB", "--batch-sizes", "2", "--largest", "False", "--json",
               "True", *SMALL)  # fmt: skip
    found = json.loads(done.stdout)
    (training,), decoding = found["training"], found["decoding"]
    assert [row["step"] for row in decoding] == ["encoding", "searching"]
    assert found["limit"] == round(0.9 * 2**30)
    assert training["fits"]
    assert training["batch_size"] == 2
    # Adam keeps two numbers for each parameter; the model has batch statistics beside them
    assert training["model"] < training["optimizer"] < 2 * training["model"] + 100
    assert training["batch"] >= 2 * 32 * 32 * 3
    assert training["peak"] >= training["model"] + training["optimizer"] + training["batch"] + training["temporaries"]
    assert training["flops"] > 3 * decoding[0]["flops"] > 0  # forward and backward, of as many images
    assert "compiling training of 2 images (float32, none, none)" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no GPU is there: name one with --device, of rtx2060, "),
        (["--device", "h10"], "--device h10: not known; did you mean"),
        (["--device", "h100", "--memory", "6 apples"], "--memory 6 apples: must be a number and GiB, MiB, GB or MB"),
        (["--device", "h100", "--share", "0"], "--share=0.0: must be more than 0"),
        (["--device", "h100", "--devices", "0"], "--devices=0: must be at least 1"),
        (["--device", "h100", "--devices", "8", "--batch-sizes", "12"], "--batch-sizes=12: must be a multiple of"),
        (["--device", "h100", "--remats", "some"], "--remats"),
    ],
)
def test_it_refuses(args, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fit", *args])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        run_main(fit.main)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in " ".join((printed.out + printed.err).split())


@pytest.mark.parametrize(
    ("text", "size"), [("6GiB", 6 * 2**30), ("6 gb", 6 * 10**9), ("512MiB", 2**29), ("1.5", 1.5 * 2**30)]
)
def test_sizes_are_read(text, size):
    assert bytes_of("--memory", text) == size


@pytest.mark.parametrize(("limit", "unit", "best"), [(1000, 1, 9), (99, 1, 0), (10_000, 8, 96), (1000, 2, 8)])
def test_the_largest_batch_is_found_by_few_compilations(limit, unit, best):
    asked = []

    def peak(size):
        asked.append(size)
        return 100 + 100 * size if unit < 8 else 100 + 101 * size

    assert largest_that_fits(peak, limit, 4 * unit, unit) == best
    assert len(asked) == len(set(asked)) <= 5


def test_a_peak_that_is_no_line_is_not_taken_for_one():
    assert largest_that_fits(lambda size: size**2, 400, 4) in range(17, 21)


def test_collectives_are_counted_with_their_bytes():
    hlo = """
      %a = (f32[2,3]{1,0}, bf16[4]{0}) all-reduce(f32[2,3]{1,0} %x, bf16[4]{0} %y), to_apply=%add
      %b = (f32[2]{0}, f32[16]{0}) all-gather-start(f32[2]{0} %z), dimensions={0}
      %c = f32[16]{0} all-gather-done((f32[2]{0}, f32[16]{0}) %b)
      %d = f32[] all-reduce(f32[] %loss), to_apply=%add
    """
    assert collectives(hlo) == {"all-gather": (1, 64), "all-reduce": (2, 24 + 8 + 4)}


def test_operations_are_counted_as_often_as_they_run():
    def thrice(x, w):
        return jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ w), None), x, None, length=3)[0].sum()

    x, w = jnp.ones((4, 8)), jnp.ones((8, 8))
    once = 2 * 4 * 8 * 8
    assert flops(jax.jit(thrice).trace(x, w).jaxpr) == 3 * once
    again = jax.jit(jax.grad(jax.checkpoint(thrice), (0, 1))).trace(x, w)
    assert flops(again.jaxpr) == 4 * 3 * once  # forward, once more, and two products backward


def test_operations_of_a_convolution_are_those_that_xla_counts():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    function = jax.jit(convolve)
    given = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 5))
    assert flops(function.trace(*given).jaxpr) == function.lower(*given).cost_analysis()["flops"]


@pytest.mark.slow
def test_every_card_can_be_compiled_for_without_it(tmp_path):
    """In packages of its own: where CUDA's are installed without a GPU, jax complains whenever it starts."""
    version = importlib.metadata.version("jax")
    packages = [f"jax-cuda13-plugin=={version}", f"jax-cuda13-pjrt=={version}", "nvidia-nvvm", "nvidia-cuda-nvcc"]
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), *packages]
    subprocess.run(install, check=True, timeout=600)
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    program = """
import sys
from dualcap_jax.fitting.compiling import absent_devices, compile_step
from dualcap_jax.fields import bytes_of
from dualcap_jax.fitting.devices import DEVICES
from dualcap_jax.fitting.steps import Step
import jax, jax.numpy as jnp

step = jax.jit(jax.grad(lambda state, x: jnp.tanh(x @ state["model"]).sum()))
for name in DEVICES:
    mesh = jax.sharding.Mesh(absent_devices(name, 2), ("data",))
    everywhere, divided = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((), ("data",)))
    kept = {"model": jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=everywhere)}
    given = (jax.ShapeDtypeStruct((8, 64, 64), jnp.float32, sharding=divided),)
    used = compile_step(Step("training", step, kept, given))
    assert used.model == 64 * 64 * 4 and used.batch == 4 * 64 * 64 * 4, used
    assert used.collectives["all-reduce"] == (1, 64 * 64 * 4), used
    print(name, used.peak)
"""
    cache = tmp_path / "cache"
    env = {**environment(), "PYTHONPATH": paths, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*DEVICES]
    assert not list(cache.glob("*-cache"))  # JAX would warn that it can't read it


def test_without_the_plugin_one_line_says_what_to_install():
    done = run("fit", "--device", "h100", *SMALL, code=2)
    assert done.stderr.splitlines()[-1].endswith("not installed: pip install 'dualcap-jax[gpu]'")


@pytest.mark.parametrize("name", DEVICES)
def test_a_target_tells_the_compute_capability_and_the_memory(name):
    text, (major, minor) = target(name), DEVICES[name].generation.capability
    assert f"major: {major} minor: {minor}" in text
    assert f"device_memory_size: {round(DEVICES[name].memory * 2**30)}" in text
    assert text.count("{") == text.count("}")
