"""Images as numpy arrays: colour, MATLAB's imresize, Bayer mosaics, PSNR and SSIM, safe files. Needs numpy and Pillow.

An image is uint8, (H, W, 3) RGB or (H, W) gray. A float image has 1.0 for white, except in the metrics and in luma,
whose unit is 1/255 as in the literature.
"""

from kgt.imaging.bayer import demosaic_malvar, mosaic
from kgt.imaging.colour import linear_to_srgb, rgb_to_y, srgb_to_linear, to_gray, to_rgb
from kgt.imaging.files import ImageError, Photo, check_writable, list_images, read_image, read_photo, write_image
from kgt.imaging.metrics import HIGHEST_PSNR, psnr, score, ssim
from kgt.imaging.resize import crop_to_multiple, imresize

__all__ = [
    "HIGHEST_PSNR",
    "ImageError",
    "Photo",
    "check_writable",
    "crop_to_multiple",
    "demosaic_malvar",
    "imresize",
    "linear_to_srgb",
    "list_images",
    "mosaic",
    "psnr",
    "read_image",
    "read_photo",
    "rgb_to_y",
    "score",
    "srgb_to_linear",
    "ssim",
    "to_gray",
    "to_rgb",
    "write_image",
]
