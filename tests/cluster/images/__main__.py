"""`python -m tests.cluster.images [--force]`: make the test cluster's images and say where they are."""

import sys

from tests.cluster.images.build import build_images

for name, path in build_images(force="--force" in sys.argv[1:]).items():
    print(f"{name}\t{path}\t{path.stat().st_size / 1e6:.0f} MB")
