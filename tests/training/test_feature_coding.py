"""The coding of cached samples: values of the quantizer, packed codes, bits of coefficients, what is kept."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from sklearn.decomposition import PCA

from decodetr.modeling_decodetr.semantic_stream import RegionPooling
from decodetr.training.features.feature_coding import Moments, SampleCoding, _cosines, allot, bytes_within
from decodetr.training.features.quantization import WIDTHS, codes_of, lost, pack, packed_size, unpack, values


def test_values_are_conditional_means_of_a_laplace_distribution():
    # One bit: the mean of a half is 1 / sqrt(2), and what is lost 1 - 1/2.
    assert torch.allclose(values(1), torch.tensor([-1.0, 1.0]) / math.sqrt(2), atol=1e-4)
    assert lost(1) == pytest.approx(0.5, abs=1e-3)
    # Two bits. With density a exp(-a x), a = sqrt(2), the mean of x above t is t + 1/a, and that of 0 to t is
    # 1/a - t / (exp(a t) - 1).
    a, (inner, outer) = math.sqrt(2), values(2)[2:].tolist()
    edge = (inner + outer) / 2
    assert outer == pytest.approx(edge + 1 / a, abs=1e-3)
    assert inner == pytest.approx(1 / a - edge / math.expm1(a * edge), abs=1e-3)
    assert lost(2) == pytest.approx(0.1762, abs=1e-3)
    for width in WIDTHS:
        assert len(values(width)) == 2**width and (values(width).diff() > 0).all()
        assert torch.allclose(values(width), -values(width).flip(0), atol=1e-3)
    assert lost(0) == 1 and lost(4) == pytest.approx(0.0154, abs=1e-3) and lost(8) < 1e-4


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [1, 7, 8, 33])
def test_what_is_packed_comes_back(width, count):
    codes = torch.randint(0, 2**width, (5, count), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    codes[:, -1] = 2**width - 1
    packed = pack(codes, width)
    assert packed.dtype == torch.uint8 and packed.shape == (5, packed_size(count, width))
    found = unpack(packed, width, count)
    assert torch.equal(found, values(width)[codes.long()])
    assert torch.equal(codes_of(found, width), codes)


def test_the_first_code_is_in_the_lowest_bits():
    assert pack(torch.tensor([[1, 0, 0, 1, 0]], dtype=torch.uint8), 1).tolist() == [[0b01001]]
    assert pack(torch.tensor([[3, 0, 1, 2, 1]], dtype=torch.uint8), 2).tolist() == [[0b10010011, 1]]
    assert pack(torch.tensor([[15, 2]], dtype=torch.uint8), 4).tolist() == [[0x2F]]


def test_bits_go_where_they_lower_the_error_most():
    # Gains for a bit of variance v: 0.5 v, 0.324 v, 0.08 v, 0.004 v.
    assert [w.tolist() for w in allot([torch.tensor([0.6, 0.4])], 1)] == [[4, 4]]
    assert [w.tolist() for w in allot([torch.tensor([0.9, 0.09, 0.01, 0.0])], 1)] == [[4, 4, 0, 0]]
    # A bit for the second one would need a byte of its own.
    assert [w.tolist() for w in allot([torch.tensor([0.9, 0.01])], 1)] == [[4, 0]]
    # The largest of each level has a bit, however small its share.
    many = allot([torch.full((8,), 1.0), torch.tensor([1e-9, 2e-9])], 2)
    assert many[1].tolist() == [0, 1] and many[0].tolist() == [2, 2, 2, 2, 1, 1, 1, 1]
    # Nothing is spent on what does not vary.
    assert [w.tolist() for w in allot([torch.tensor([1.0, 0.0]), torch.tensor([0.5])], 100)] == [[8, 0], [8]]


def test_a_budget_is_kept_to_the_byte():
    generator = torch.Generator().manual_seed(0)
    variances = [torch.rand(count, generator=generator) ** 8 for count in (64, 200)]
    before = 1.0
    for size in (2, 3, 11, 20, 57, 131, 200, 264, 300):
        widths = torch.cat(allot(variances, size))
        used = sum(packed_size(int((widths == width).sum()), width) for width in WIDTHS)
        assert min(size, 264) - 3 <= used <= size
        error = sum((v * lost(int(w))).item() for v, w in zip(torch.cat(variances), widths))
        assert error < before * torch.cat(variances).sum() or size > 264
        before = error / torch.cat(variances).sum()
    assert bytes_within(1000, 100, levels=3) == 900
    with pytest.raises(ValueError, match=r"--cache-query-bytes 102: .* take 100 bytes; give at least 103"):
        bytes_within(102, 100, levels=3)


def test_the_transform_is_pca_of_channels_and_the_cosine_transform_of_points():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator)
    samples = torch.einsum("dc,ncp->ndp", mixing, torch.randn(40, 6, 4, generator=generator)) + 100.0
    moments = Moments(6)
    for part in samples.split(7):
        moments.add([part])
    coding = moments.fit(6 * 4)
    rows = samples.transpose(1, 2).flatten(0, 1).double().numpy()
    pca = PCA().fit(rows)
    ((mean, basis),) = coding.bases
    assert np.allclose(mean, pca.mean_, atol=1e-2)
    assert np.allclose(np.abs(pca.components_ @ basis.double().numpy()), np.eye(6)[:, :5], atol=1e-2)
    (level,) = coding.levels
    found = level.coefficients(samples)
    flat = (basis.T @ (samples - mean[:, None])).unflatten(2, (2, 2)).numpy()
    assert np.allclose(found.unflatten(2, (2, 2)), dctn(flat, axes=(2, 3), norm="ortho"), atol=1e-3)
    assert torch.allclose(level.offset, found.mean(0), atol=5e-2)
    assert torch.allclose(level.scale, found.std(0, correction=0), atol=5e-2)
    cosines = _cosines(16, torch.device("cpu"))
    assert torch.allclose(cosines @ cosines.T, torch.eye(16), atol=1e-6)


def smooth(count, channels, generator):
    """(count, channels, 16) samples that are nearly the same at all points, of channels that depend on each other."""
    base = torch.randn(count, channels, 1, generator=generator) + 0.3 * torch.randn(
        count, channels, 16, generator=generator
    )
    return torch.randn(channels, channels, generator=generator) @ base + 5


def share_kept(samples, bases, decoded):
    """Of the variance of a level's samples."""
    (mean, basis), (found,) = bases[0], decoded
    centred = samples - mean[:, None]
    return (1 - (centred - basis @ found).square().sum() / centred.square().sum()).item()


def test_more_is_kept_than_by_the_first_channels_in_eight_bits():
    generator = torch.Generator().manual_seed(0)
    both = smooth(600, 48, generator)
    samples, others = both[:400], both[400:]
    moments = Moments(1)
    moments.add([samples])
    size = 48 * 16 * 15 // 100  # 15 % of the channels in eight bits, 1.2 bits a number
    coding = moments.fit(size)
    assert size - 3 <= coding.size <= size
    coded = coding.encode([others])
    assert coded[0].dtype == torch.uint8 and coded[0].shape == (200, coding.size)
    kept = share_kept(others, coding.bases, coding.decode(coded))
    mean, basis = moments.components()[0]
    few = basis[:, : size // 16]
    projected = few @ (few.T @ (others - mean[:, None]))
    by_channels = 1 - (others - mean[:, None] - projected).square().sum() / (others - mean[:, None]).square().sum()
    assert kept > 0.85 > by_channels + 0.1
    assert coding.kept[0] == pytest.approx(kept, abs=0.03)


def test_what_is_written_is_read_and_codes_the_same(tmp_path):
    generator = torch.Generator().manual_seed(0)
    samples = [smooth(50, channels, generator) for channels in (6, 10)]
    thumbnails = torch.rand(50, 3, 64, generator=generator) * 4 - 2
    moments = Moments(2)
    for part in range(2):
        half = slice(25 * part, 25 * part + 25)
        moments.add([level[half] for level in samples], thumbnails[half])
    coding = moments.fit(40)
    coding.write(tmp_path / "coding.safetensors")
    again = SampleCoding.load(tmp_path / "coding.safetensors")
    one, other = coding.encode([*samples, thumbnails]), again.encode([*samples, thumbnails])
    assert [part.shape[1:] for part in one] == [(coding.size,), (3, 64)] and len(one) == len(other) == 2
    assert all(torch.equal(a, b) for a, b in zip(one, other))
    decoded = again.decode(other)
    assert [part.shape[1] for part in decoded] == [*(basis.shape[1] for _, basis in again.bases), 3]
    # A thumbnail's values are at most half of one of 255 steps off.
    assert (decoded[-1] - thumbnails).abs().max() <= 4 / 255 / 2 + 1e-5
    assert again.kept == coding.kept and str(again) == str(coding)


def test_weights_in_the_span_read_whole_maps_as_decoded_samples():
    torch.manual_seed(0)
    pooling = RegionPooling([5, 40], out_channels=3, grid=4)
    samples = [smooth(30, channels, torch.default_generator) for channels in (5, 40)]
    moments = Moments()
    moments.add(samples)
    coding = moments.fit(40)
    decoded = coding.decode(coding.encode(samples))
    assert [part.shape[1] for part in decoded] == [basis.shape[1] for _, basis in coding.bases]
    assert decoded[1].shape[1] < 40
    # Of any weights: what they say of the samples that the decoded ones stand for.
    stand_for = [mean[:, None] + basis @ part for part, (mean, basis) in zip(decoded, coding.bases)]
    before = pooling.project_samples(stand_for)
    assert torch.allclose(pooling.project_samples(decoded, coding.bases), before, atol=1e-4)
    # Of weights in the span: what they say of the samples themselves, but for the rounding.
    exact = [basis.T @ (x - mean[:, None]) for x, (mean, basis) in zip(samples, coding.bases)]
    assert not torch.allclose(pooling.project_samples(exact, coding.bases), pooling.project_samples(samples), atol=0.1)
    pooling.restrict(coding.bases)
    whole = pooling.project_samples(samples)
    assert torch.allclose(pooling.project_samples(exact, coding.bases), whole, atol=1e-4)
    error = (pooling.project_samples(decoded, coding.bases) - whole).square().mean()
    assert error < 0.3 * whole.var()


def test_nothing_to_fit_to_is_said():
    moments = Moments()
    moments.add([torch.zeros(0, 4, 16)])
    with pytest.raises(ValueError, match=r"no query lies on .* nothing to fit the coding of --cache-query-bytes to"):
        moments.fit(10)
