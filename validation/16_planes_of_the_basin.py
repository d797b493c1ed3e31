r"""Planes of a basin: predicted and real densities, escape times, committors.

A small network on digits (226 parameters) is trained to a minimum, and planes are laid through it: its two sharpest
directions, eigenvectors of the Hessian, and the principal components of a stretch of SGD. On each the loss, the drift
and the covariance of one example's gradient are measured, and the Fokker–Planck equation predicts the density, the
mean time to leave a circle of 1.5 standard deviations of the real runs, and the chance to leave a strip on its far
side. Against it: 300 real SGD runs of the whole network from the minimum.

Densities are compared by their Wasserstein distance, in spreads of the runs, and by their L1 distance over blocks of
4x4 cells, which lies between 0 and 2. Each has a floor, what as many points of the predicted density itself would
give; what goes beyond it, as a share of one spread or of 2, is taken from 1. Exits are seen at steps only, so the
edge is moved outwards by 0.583 standard deviations of a step (Siegmund 1979); tolerance 10 % for times, chances and
the mean square. The last row of a plane is the leak: the share of the squared motion that the plane sees, which a
slice takes to be all.
"""

from _network_planes import compare, principal, sharpest
from _study import main


def run(study):
    compare(study, [("sharpest directions", sharpest), ("principal components", principal)])


if __name__ == "__main__":
    main(__file__)
