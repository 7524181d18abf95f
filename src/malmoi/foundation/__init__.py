"""The foundation model of the sample world: what it reads, how it is made, how good it is.

`python -m malmoi.foundation` makes the two models that come with malmoi (see `malmoi.hub.shipped`).
"""
