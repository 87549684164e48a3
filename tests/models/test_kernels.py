"""Quick dropout and grouped attention against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from embedkit.models.execution import attention, kernels
from embedkit.models.execution.kernels import (
    Dropout,
    GroupedAttention,
    dropout_factor,
    dropout_mask,
    grouped_attention,
    swap_dropout,
)
from embedkit.models.execution.plan import Plan


def naive_attention(query, key, value, lengths, scale, factors=None, bias=None, window=None):
    """Sequence by sequence, written out; `factors` per place as lists of (heads, l, l)."""
    outputs, at = [], 0
    for place, length in enumerate(lengths):
        q, k, v = (x[at : at + length].transpose(0, 1) for x in (query, key, value))
        scores = q @ k.transpose(1, 2) * scale
        if bias is not None:
            scores = scores + bias[0, :, :length, :length]
        for i in range(length):
            for j in range(length):
                if window is not None and abs(i - j) >= window:
                    scores[:, i, j] = -torch.inf
        weights = torch.softmax(scores, -1)
        if factors is not None:
            weights = weights * factors[place]
        outputs.append((weights @ v).transpose(0, 1))
        at += length
    return torch.cat(outputs)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    plan = Plan.of(np.array([4, 1, 4, 2, 7, 2]))
    tensors = [torch.randn(plan.tokens, 3, 5, dtype=torch.float64, generator=generator) for _ in range(4)]
    return plan, tensors


def test_attention_and_its_gradient(case) -> None:
    plan, (query, key, value, upstream) = case
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    expected = naive_attention(*leaves, plan.lengths, 0.4)
    expected.backward(upstream)
    ours = [x.clone().requires_grad_() for x in (query, key, value)]
    found = grouped_attention(tuple(ours), plan, 0.4, 0.0)
    found.backward(upstream)
    torch.testing.assert_close(found, expected)
    for a, b in zip(ours, leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    with torch.no_grad():
        torch.testing.assert_close(grouped_attention((query, key, value), plan, 0.4, 0.0), expected.detach())


def test_attention_dropout_and_its_gradient(case) -> None:
    plan, (query, key, value, upstream) = case
    torch.manual_seed(1)
    size = sum(g.count * g.length**2 for g in plan.groups) * 3
    flat = dropout_mask((size,), 0.3) * dropout_factor(0.3, torch.float64)
    factors, at = [], 0
    for length in plan.lengths:
        factors.append(flat[at : at + 3 * length**2].view(3, length, length))
        at += 3 * length**2
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    expected = naive_attention(*leaves, plan.lengths, 0.4, factors)
    expected.backward(upstream)
    ours = [x.clone().requires_grad_() for x in (query, key, value)]
    torch.manual_seed(1)
    found = grouped_attention(tuple(ours), plan, 0.4, 0.3)
    found.backward(upstream)
    torch.testing.assert_close(found, expected)
    for a, b in zip(ours, leaves, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("attend", [grouped_attention, attention.padded_attention])
def test_bias_and_window(case, attend, window: int | None, biased: bool) -> None:
    """What a CPU and what a GPU runs, with relative bias and sliding window."""
    plan, (query, key, value, upstream) = case
    bias = torch.randn(1, 3, plan.longest, plan.longest, dtype=torch.float64) if biased else None

    def run(function) -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_() for x in (query, key, value)]
        added = None if bias is None else bias.clone().requires_grad_()
        out = function(tuple(leaves), added)
        out.backward(upstream)
        return [out.detach(), *(x.grad for x in leaves), *([] if added is None else [added.grad])]

    found = run(lambda x, b: attend(x, plan, 0.4, 0.0, b, window))
    expected = run(lambda x, b: naive_attention(*x, plan.lengths, 0.4, bias=b, window=window))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    with torch.inference_mode():
        torch.testing.assert_close(attend((query, key, value), plan, 0.4, 0.0, bias, window), expected[0])


def test_long_groups_in_inference_mode(case, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, (query, key, value, _) = case
    monkeypatch.setattr("embedkit.models.execution.kernels.LONGEST_PLAIN", 2)
    with torch.inference_mode():
        found = grouped_attention((query, key, value), plan, 0.4)
    torch.testing.assert_close(found, naive_attention(query, key, value, plan.lengths, 0.4))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_forward_is_the_same_bits_with_and_without_gradient(case, dropout: float) -> None:
    plan, (query, key, value, _) = case
    flat = tuple(x.float() for x in (query, key, value))
    torch.manual_seed(4)
    with torch.no_grad():
        first = grouped_attention(flat, plan, 0.4, dropout)
    torch.manual_seed(4)
    assert torch.equal(grouped_attention(tuple(x.requires_grad_() for x in flat), plan, 0.4, dropout), first)


def test_short_texts_in_half_precision_are_computed_in_single() -> None:
    """Rounded once, on the way out: nearer to the truth than products that round each score."""
    plan, generator = Plan.of(np.array([3, 9, 9, 20])), torch.Generator().manual_seed(0)
    tensors = [torch.randn(plan.tokens, 3, 8, generator=generator).bfloat16() for _ in range(4)]
    leaves = [x.double().requires_grad_() for x in tensors[:3]]
    expected = naive_attention(*leaves, plan.lengths, 0.4)
    expected.backward(tensors[3].double())
    ours = [x.clone().requires_grad_() for x in tensors[:3]]
    found = grouped_attention(tuple(ours), plan, 0.4)
    found.backward(tensors[3])
    for a, b in zip([found, *(x.grad for x in ours)], [expected, *(x.grad for x in leaves)], strict=True):
        assert a.dtype == torch.bfloat16
        assert ((a.double() - b).abs() <= b.abs() * 2.0**-8 + 1e-6).all()  # one rounding to eight bits


def test_rows_in_group_order_and_back() -> None:
    plan, heads = Plan.of(np.array([2, 1, 2])), 3
    rows, back = plan.rows(heads, torch.device("cpu"))
    wanted = []
    for start, length in zip(plan.starts, plan.lengths, strict=True):
        wanted += [(start + place) * heads + head for head in range(heads) for place in range(length)]
    assert rows.tolist() == wanted
    assert rows[back].tolist() == back[rows].tolist() == list(range(plan.tokens * heads))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_on_cuda(case, dtype: torch.dtype) -> None:
    plan, (query, key, value, _) = case
    flat = [torch.cat([x, x, x], -1)[..., :8].to("cuda", dtype) for x in (query, key, value)]
    stacked = [x.transpose(0, 1)[None] for x in flat]
    found, _ = attention.packed_attention(torch.nn.Identity(), *stacked, None, plan=plan)
    expected = naive_attention(*(x.double().cpu() for x in flat), plan.lengths, 8**-0.5)
    torch.testing.assert_close(
        found[0].double().cpu(), expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-5, rtol=0
    )


def test_attention_gradcheck(case) -> None:
    plan, (query, key, value, _) = case
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    assert torch.autograd.gradcheck(lambda *x: GroupedAttention.apply(*x, None, plan, 0.4, 0.0, None), leaves)


def test_attention_takes_strided_views(case) -> None:
    plan, (query, key, value, _) = case
    joined = torch.stack([query, key, value], dim=1)  # (T, 3, heads, d)
    found = grouped_attention(joined.unbind(1), plan, 0.4, 0.0)
    torch.testing.assert_close(found, naive_attention(query, key, value, plan.lengths, 0.4))


@pytest.mark.parametrize("p", [0.1, 0.15, 0.5])
def test_dropout_rate_scale_and_independence(p: float) -> None:
    torch.manual_seed(0)
    size = 400_000
    factors = dropout_mask((size,), p) * dropout_factor(p, torch.float32)
    assert set(np.unique(factors.numpy()).tolist()) == {0.0, float(np.float32(1 / (1 - p)))}
    dropped = (factors == 0).double()
    deviation = (p * (1 - p) / size) ** 0.5
    assert abs(dropped.mean().item() - p) < 5 * deviation
    for lag in (1, 2, 3, 4, 8):  # neighbours come from the same 64-bit word
        together = (dropped[lag:] * dropped[:-lag]).mean().item()
        assert abs(together - p * p) < 5 * (p * p * (1 - p * p) / size) ** 0.5


def test_dropout_threshold_is_unbiased() -> None:
    """p far below 1 / 65536 steps still comes out right on average, by drawing one of two thresholds per call."""
    torch.manual_seed(0)
    p = 0.3 / 65536
    dropped = sum(int((dropout_mask((65_536,), p) == 0).sum()) for _ in range(400))
    assert abs(dropped - 120) < 5 * (120 * 2) ** 0.5


def test_dropout_follows_the_torch_generator() -> None:
    layer = Dropout(0.4).train()
    x = torch.ones(7, 5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    first, second = layer(x), layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer(x), second)
    assert not torch.equal(first, second)


def test_dropout_gradient_and_off() -> None:
    layer = Dropout(0.4).train()
    x = torch.randn(50, 3, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x, out)
    assert layer.eval()(x) is x
    assert Dropout(0.0).train()(x) is x
    assert layer.train()(x.half()).dtype == torch.float16
    assert Dropout(1.0).train()(x).abs().sum() == 0


def test_swap_keeps_names_rates_and_mode() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.3), torch.nn.Sequential(torch.nn.Dropout(0.1)))
    net.eval()
    keys = list(net.state_dict())
    swap_dropout(net)
    assert [type(net[1]), type(net[2][0])] == [Dropout, Dropout]
    assert (net[1].p, net[2][0].p, net[1].training) == (0.3, 0.1, False)
    assert list(net.state_dict()) == keys
    x = torch.randn(3, 2)
    torch.testing.assert_close(net(x), F.linear(x, net[0].weight, net[0].bias))


@pytest.mark.parametrize("length", [1, 2, 7, 15, 16, 17, 63, 64, 70])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)]
)
def test_softmax_of_rows_of_any_length(length: int, dtype: torch.dtype, bound: float) -> None:
    scores = (torch.randn(6, 5, length, generator=torch.Generator().manual_seed(length)) * 30).to(dtype)
    scores[0, 0, 0] = -torch.inf if length > 1 else 0.0
    scores[1] = 1e4  # equal and large
    right = torch.softmax(scores.double(), -1).requires_grad_()
    probabilities = kernels.softmax_(scores.clone())
    assert probabilities.dtype == dtype and (probabilities.double() - right).abs().max() < bound
    grad = torch.randn(6, 5, length, generator=torch.Generator().manual_seed(1)).to(dtype)
    x = scores.double().requires_grad_()
    (wanted,) = torch.autograd.grad(torch.softmax(x, -1), x, grad.double())
    gradient = kernels.softmax_gradient(grad.clone(), probabilities)
    assert gradient.dtype == dtype and (gradient.double() - wanted).abs().max() < 4 * bound
