"""Which arithmetic this CPU has instructions for: what it lacks is emulated, up to hundreds of times slower."""

from __future__ import annotations


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware (AVX-512 BF16, AMX, or ARM's bf16).

    Examples
    --------
    >>> from embedkit.system.cpu import cpu_has_bf16
    >>> cpu_has_bf16() in (True, False)
    True
    """
    import torch

    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    names = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16", "arm_bf16")
    if flags:
        return any(bool(flags.get(name)) for name in names)
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def cpu_has_int8() -> bool:
    """Whether this CPU multiplies 8-bit integers in hardware (AVX-512 VNNI or AMX), and torch has the kernel.

    Elsewhere sums of two products may overflow their 16 bits, so 8 bits are not used at all.

    Examples
    --------
    >>> from embedkit.system.cpu import cpu_has_int8
    >>> cpu_has_int8() in (True, False)
    True
    """
    import torch

    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")):
        return False
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if flags:
        return any(bool(flags.get(name)) for name in ("avx512_vnni", "amx_int8"))
    return bool(torch.cpu._is_vnni_supported())


def cpu_has_avx512() -> bool:
    """Whether this CPU has AVX-512, and torch has oneDNN, whose kernels use it on every maker's processors.

    Examples
    --------
    >>> from embedkit.system.cpu import cpu_has_avx512
    >>> cpu_has_avx512() in (True, False)
    True
    """
    import torch

    has_kernels = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_kernels and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def cpu_name() -> str:
    """The model of this CPU as it names itself, else its architecture.

    Examples
    --------
    >>> from embedkit.system.cpu import cpu_name
    >>> len(cpu_name()) > 0
    True
    """
    import platform

    import torch

    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return str(flags.get("cpu_name") or platform.processor() or platform.machine())
