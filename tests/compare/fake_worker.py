"""The worker of a comparison with the fake methods among the known ones."""

import sys

from malmoi.compare.worker import main
from malmoi.methods.registry import METHODS
from tests.compare.fakes import FAKES

if __name__ == "__main__":
    METHODS.update(FAKES)
    main(sys.argv[1:])
