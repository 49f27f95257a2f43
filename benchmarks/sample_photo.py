"""Print the path of a photo that comes with matplotlib, grace_hopper.jpg (U.S. Navy, public domain)."""

from matplotlib.cbook import get_sample_data

print(get_sample_data("grace_hopper.jpg", asfileobj=False))
