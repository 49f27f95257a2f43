"""Make the pictures of the README in ``outputs/gallery/``, with the commands ``dream`` and ``stylize``."""

import subprocess
import sys
from pathlib import Path

from matplotlib.cbook import get_sample_data

GALLERY = Path(__file__).parents[1] / "outputs" / "gallery"
PHOTO = str(get_sample_data("grace_hopper.jpg", asfileobj=False))
CAT = str(Path(__file__).parent / "pictures" / "chelsea.jpg")
"""Path of a photo of the cat Chelsea by Stefan van der Walt, from scikit-image (CC0)."""

COMMANDS = {
    "digits.png": "dream digits --compare",
    "digits-mlp.png": "dream digits --model digits-mlp",
    "filters.png": "dream units --columns 6",
    "filters-all.png": "dream units --units all --columns 10",
    "neurons.png": "dream units --layer hidden --units 0-11 --columns 6",
    "examples.png": "dream examples --units 0-3,8",
    "amplified.jpg": "dream amplify CAT",
    "inverted.jpg": "dream invert CAT --size 320",
    "caricature.jpg": "dream caricature CAT --layer relu5_1 --size 320",
    "accentuated.jpg": "dream accentuate CAT --unit 100 --size 320",
    "vgg16-relu2_2.png": "dream units --model vgg16 --layer relu2_2 --units 0-5 --columns 6",
    "vgg16-relu3_3.png": "dream units --model vgg16 --layer relu3_3 --units 0-5 --columns 6",
    "vgg16-relu4_1.jpg": "dream units --model vgg16 --layer relu4_1 --units "
    + ",".join(map(str, range(0, 512, 16)))
    + " --columns 8",
    "vgg16-relu5_1.png": "dream units --model vgg16 --layer relu5_1 --units 0-5 --columns 6",
    "stained-glass.jpg": "stylize PHOTO --style stained-glass --style-weight 3",
    "brushwork.jpg": "stylize PHOTO --style brushwork --style-weight 3",
    "marbling.jpg": "stylize PHOTO --style marbling --style-weight 3",
    "pointillism.jpg": "stylize PHOTO --style pointillism --style-weight 3",
}
"""Command that makes each picture, by file name. ``PHOTO`` and ``CAT`` stand for the values of the constants with these
names."""


def main(wanted: list[str]) -> None:
    """Make the pictures whose file names are in ``wanted``, or all pictures if ``wanted`` is empty."""
    for name in wanted or COMMANDS:
        tool, *arguments = [{"PHOTO": PHOTO, "CAT": CAT}.get(word, word) for word in COMMANDS[name].split()]
        output = ["--output", str(GALLERY / name), "--overwrite"]
        subprocess.run([sys.executable, "-m", "dreamgram", tool, *arguments, *output], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
