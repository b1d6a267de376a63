"""GPUs as XLA's compiler knows them, by the figures of NVIDIA's data sheets and CUDA's programming guide.

XLA compiles for a device that isn't there from a `GpuTargetConfigProto` in text, as openxla/xla has some in
`xla/backends/gpu/target_config/specs/`. Here the text is made of the few figures in which cards differ.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Generation:
    """What all cards of an architecture have in common."""

    capability: tuple[int, int]
    """Compute capability."""
    float32_units: int
    """Of a multiprocessor."""
    shared_memory: int
    """KiB of a multiprocessor."""
    shared_memory_of_block: int
    """KiB that a block may have, if it asks for it."""
    threads: int
    """Of a multiprocessor."""


TURING = Generation((7, 5), 64, 64, 64, 1024)
AMPERE = Generation((8, 0), 64, 164, 163, 2048)
AMPERE_RTX = Generation((8, 6), 128, 100, 99, 1536)
ADA = Generation((8, 9), 128, 100, 99, 1536)
HOPPER = Generation((9, 0), 128, 228, 227, 2048)
BLACKWELL = Generation((10, 0), 128, 228, 227, 2048)


@dataclass(frozen=True)
class Device:
    """A card."""

    generation: Generation
    """Its architecture."""
    multiprocessors: int
    """Streaming multiprocessors."""
    memory: float
    """GiB, as CUDA tells."""
    bandwidth: float
    """GB/s of the memory."""
    l2: float
    """MiB of the second-level cache."""
    clock: float
    """GHz, at most."""
    note: str = ""
    """What is not as the card's, in a sentence."""


DEVICES = {
    "rtx2060": Device(TURING, 30, 6, 336, 3, 1.68),
    "t4": Device(TURING, 40, 14.6, 320, 4, 1.59),
    "v100": Device(
        TURING, 80, 15.8, 898, 6, 1.53, "CUDA 13 no longer compiles for the V100 (sm_70): compiled as Turing (sm_75)."
    ),
    "rtx3060": Device(AMPERE_RTX, 28, 12, 360, 3, 1.78),
    "rtx3090": Device(AMPERE_RTX, 82, 23.7, 936, 6, 1.7),
    "a10": Device(AMPERE_RTX, 72, 22.1, 600, 6, 1.7),
    "a100-40": Device(AMPERE, 108, 39.4, 1555, 40, 1.41),
    "a100": Device(AMPERE, 108, 79.3, 2039, 40, 1.41),
    "rtx4090": Device(ADA, 128, 23.6, 1008, 72, 2.52),
    "l4": Device(ADA, 58, 22.0, 300, 48, 2.04),
    "h100": Device(HOPPER, 132, 79.1, 3352, 50, 1.98),
    "h200": Device(HOPPER, 132, 139.8, 4800, 50, 1.98),
    "b200": Device(BLACKWELL, 148, 178.4, 7700, 126, 1.97),
}
"""Cards by the name that `--device` takes."""


def target(name: str) -> str:
    """The `GpuTargetConfigProto` of a card, in text."""
    device = DEVICES[name]
    kind = device.generation
    major, minor = kind.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_core: {kind.shared_memory * 1024}
  shared_memory_per_block_optin: {kind.shared_memory_of_block * 1024}
  threads_per_core_limit: {kind.threads}
  core_count: {device.multiprocessors}
  fpus_per_core: {kind.float32_units}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {round(device.bandwidth * 1e9)}
  l2_cache_size: {round(device.l2 * 2**20)}
  clock_rate_ghz: {device.clock}
  device_memory_size: {round(device.memory * GIB)}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
device_description_str: "{name}"
"""
