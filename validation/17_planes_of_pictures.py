r"""The planes of loss pictures: predicted and real densities, escape times, committors.

A small network on digits (226 parameters) is trained to a minimum, and planes are laid through it: through two more
solutions, and along two random filter-normalised directions. On each the loss, the drift and the covariance of one
example's gradient are measured, and the Fokker–Planck equation predicts the density, the mean time to leave a circle
of 1.5 standard deviations of the real runs, and the chance to leave a strip on its far side. Against it: 300 real SGD
runs of the whole network from the minimum.

Densities are compared by their Wasserstein distance, in spreads of the runs, and by their L1 distance over blocks of
4x4 cells, which lies between 0 and 2. Each has a floor, what as many points of the predicted density itself would
give; what goes beyond it, as a share of one spread or of 2, is taken from 1. Exits are seen at steps only, so the
edge is moved outwards by 0.583 standard deviations of a step (Siegmund 1979); tolerance 10 % for times, chances and
the mean square. The last row of a plane is the leak: the share of the squared motion that the plane sees, which a
slice takes to be all.
"""

from _network_planes import at_random, compare, through_solutions
from _study import main


def run(study):
    compare(study, [("three solutions", through_solutions), ("random, filter-normalised", at_random)])


if __name__ == "__main__":
    main(__file__)
