"""`python -m malmoi.foundation [OUT]`: make the models that come with malmoi, or go on with it."""

import sys
from pathlib import Path

from malmoi.foundation.making import build

if __name__ == "__main__":
    build(Path(*sys.argv[1:2] or ["runs/foundation"]))
