"""Linear layers by oneDNN against products that are written out in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from embedkit.models.execution.products import (
    LinearProduct,
    QuickProducts,
    TrainedLinear,
    product,
    product_across,
)
from embedkit.system.cpu import cpu_has_avx512

needs_avx512 = pytest.mark.skipif(not cpu_has_avx512(), reason="needs AVX-512 and oneDNN")


def written_out(x: torch.Tensor, layer: nn.Linear, upstream: torch.Tensor) -> list[np.ndarray]:
    """Output and gradients of input, weight and bias, in float64 by numpy."""
    rows, weight = x.detach().double().numpy().reshape(-1, x.shape[-1]), layer.weight.detach().double().numpy()
    grad = upstream.double().numpy().reshape(-1, weight.shape[0])
    output = rows @ weight.T + (0.0 if layer.bias is None else layer.bias.detach().double().numpy())
    return [output.reshape(*x.shape[:-1], -1), (grad @ weight).reshape(x.shape), grad.T @ rows, grad.sum(0)]


@needs_avx512
@pytest.mark.parametrize("shape", [(1, 64), (7, 64), (1, 130, 64), (2, 3, 5, 64)])
@pytest.mark.parametrize(("width", "bias"), [(64, True), (80, True), (80, False)])
def test_output_and_gradients(shape: tuple[int, ...], width: int, bias: bool) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, width, bias=bias))
    x, upstream = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], width)
    with QuickProducts(layers).context():
        assert type(layers[0]) is TrainedLinear
        output = layers(x)
    assert type(layers[0]) is nn.Linear and output.grad_fn is not None
    output.backward(upstream)
    found = [output.detach(), x.grad, layers[0].weight.grad, *([layers[0].bias.grad] if bias else [])]
    for a, b in zip(found, written_out(x, layers[0], upstream), strict=False):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-4, atol=3e-5)


@needs_avx512
def test_views_and_gradients_that_are_not_contiguous() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, 80))
    x = torch.randn(64, 9).t().requires_grad_()
    with QuickProducts(layers).context():
        output = layers(x)
    output.sum().backward()  # its gradient is one number that is expanded
    for a, b in zip([x.grad, layers[0].weight.grad], written_out(x, layers[0], torch.ones(9, 80))[1:3], strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-4, atol=3e-5)


@needs_avx512
def test_frozen_parts_get_no_gradient() -> None:
    layers = nn.Sequential(nn.Linear(64, 64))
    layers[0].weight.requires_grad_(False)
    with QuickProducts(layers).context():
        layers(torch.randn(3, 64)).sum().backward()
    assert layers[0].weight.grad is None and layers[0].bias.grad is not None


@needs_avx512
def test_same_bits_with_and_without_gradient() -> None:
    layers, x = nn.Sequential(nn.Linear(64, 64)), torch.randn(3, 64)
    with QuickProducts(layers).context():
        with torch.no_grad():
            first = layers(x)
        assert torch.equal(layers(x), first)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_and_modes_are_torchs_own(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearProduct, "apply", None)
    layers = nn.Sequential(nn.Linear(64, 64)).to(dtype)
    single, x = copy.deepcopy(layers).float(), torch.randn(3, 64)
    with QuickProducts(layers).context():
        assert torch.equal(layers(x.to(dtype)), nn.functional.linear(x.to(dtype), layers[0].weight, layers[0].bias))
    with QuickProducts(single).context():
        assert single(x[:0]).shape == (0, 64)
        with torch.inference_mode():
            assert torch.equal(single(x), nn.functional.linear(x, single[0].weight, single[0].bias))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert single(x).dtype == torch.bfloat16


def test_layers_are_as_built_after_an_error() -> None:
    layers = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    with QuickProducts(layers).context():
        assert type(layers[1]) is nn.Linear  # too small to gain
    with pytest.raises(RuntimeError), QuickProducts(layers).context():
        layers(torch.ones(3, 5))
    assert type(layers[0]) is nn.Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns", "size"), [(1, 1, 1), (5, 40, 7), (40, 5, 64), (0, 3, 2), (3, 2, 0)])
def test_products_of_any_shape_and_type(rows: int, columns: int, size: int, dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(rows)
    x, y = (torch.randn(n, size, generator=draws).to(dtype) for n in (rows, columns))
    exact = x.double() @ y.double().T
    near = {"atol": 1e-12, "rtol": 1e-12} if dtype == torch.float64 else {"atol": 0.1, "rtol": 0.02}
    near = {"atol": 1e-4, "rtol": 1e-5} if dtype == torch.float32 else near
    assert product(x, y).dtype == dtype
    torch.testing.assert_close(product(x, y).double(), exact, **near)
    torch.testing.assert_close(product(y.T.contiguous().T, x).double(), exact.T, **near)
    torch.testing.assert_close(product_across(x.T.contiguous(), y.T.contiguous()).double(), exact, **near)
