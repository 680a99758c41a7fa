import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kgt import imaging
from kgt.baselines import demosaic_malvar, reflect_pad, upsample_bicubic

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(SIZES, st.sampled_from([2, 3, 4]), st.integers(0, 10**6))
@settings(max_examples=40)
def test_bicubic_upsampling_is_matlabs(size: tuple[int, int], scale: int, seed: int) -> None:
    image = np.random.default_rng(seed).random((*size, 3))
    found = upsample_bicubic(torch.from_numpy(image).permute(2, 0, 1)[None], scale)
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), imaging.imresize(image, scale), atol=1e-7)


@given(SIZES, st.integers(0, 10**6))
@settings(max_examples=40)
def test_demosaicking_is_malvars(size: tuple[int, int], seed: int) -> None:
    mosaic = np.random.default_rng(seed).random(size)
    found = demosaic_malvar(torch.from_numpy(mosaic)[None, None])
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), imaging.demosaic_malvar(mosaic), atol=1e-12)


@given(SIZES, st.tuples(*[st.integers(0, 30)] * 4))
@settings(max_examples=40)
def test_reflection_is_numpys_however_wide(size: tuple[int, int], margins: tuple[int, int, int, int]) -> None:
    image = np.arange(size[0] * size[1], dtype=np.float32).reshape(size)
    expected = np.pad(image, (margins[:2], margins[2:]), mode="reflect")
    assert np.array_equal(reflect_pad(torch.from_numpy(image)[None, None], *margins)[0, 0].numpy(), expected)


@pytest.mark.parametrize("baseline", [lambda x: upsample_bicubic(x, 2), lambda x: demosaic_malvar(x[:, :1])])
def test_float32_stays_and_a_batch_is_its_images(baseline) -> None:
    x = torch.rand(3, 3, 9, 8)
    out = baseline(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.cat([baseline(image[None]) for image in x]))
